from tests.small_report import small_report as small_report
