"""Where images come from: folders, lists, tables, archives and stores."""
