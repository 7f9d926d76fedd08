"use strict";
{
  const { rows, columns, neighbors } = JSON.parse(document.getElementById("data").textContent);
  const photos = [...document.querySelectorAll(".photo")];
  const strip = document.getElementById("strip"), said = document.getElementById("said");
  const places = rows * columns;
  const clear = () => document.querySelectorAll(".photo i").forEach((frame) => frame.remove());

  // A patch by its number among those of all images: which photograph, line and column.
  const spot = (patch) => ({
    photo: photos[Math.floor(patch / places)],
    row: Math.floor((patch % places) / columns),
    column: patch % columns,
  });

  const frame = (patch, own) => {
    const { photo, row, column } = spot(patch), box = document.createElement("i");
    box.style.left = `${(100 * column) / columns}%`;
    box.style.top = `${(100 * row) / rows}%`;
    box.style.width = `${100 / columns}%`;
    box.style.height = `${100 / rows}%`;
    box.className = own ? "own" : "";
    photo.append(box);
  };

  // A patch with one patch around it on each side, cut out of its photograph.
  const cut = (patch) => {
    const { photo, row, column } = spot(patch), piece = document.createElement("div"), span = 3;
    const from = (place, count) => Math.min(Math.max(place - 1, 0), Math.max(count - span, 0));
    const at = (place, count) => (count > span ? (100 * from(place, count)) / (count - span) : 0);
    piece.style.backgroundImage = `url("${photo.querySelector("img").src}")`;
    piece.style.backgroundSize = `${(100 * columns) / span}% ${(100 * rows) / span}%`;
    piece.style.backgroundPosition = `${at(column, columns)}% ${at(row, rows)}%`;
    piece.title = photo.querySelector("img").alt;
    return piece;
  };

  const choose = (patch) => {
    clear();
    frame(patch, true);
    neighbors[patch].forEach((other) => frame(other, false));
    strip.replaceChildren(...[patch, ...neighbors[patch]].map(cut));
    const { photo, row, column } = spot(patch);
    said.textContent = `Line ${row + 1}, column ${column + 1} of ${photo.querySelector("img").alt}, and the nearest patches:`;
    photo.dataset.patch = patch;
  };

  photos.forEach((photo, number) => {
    const clamp = (place, count) => Math.min(Math.max(place, 0), count - 1);
    const middle = number * places + Math.floor(rows / 2) * columns + Math.floor(columns / 2);
    photo.tabIndex = 0;
    photo.addEventListener("click", (event) => {
      const box = photo.getBoundingClientRect();
      const column = clamp(Math.floor(((event.clientX - box.left) / box.width) * columns), columns);
      const row = clamp(Math.floor(((event.clientY - box.top) / box.height) * rows), rows);
      choose(number * places + row * columns + column);
    });
    photo.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      const { row, column } = spot(Number(photo.dataset.patch ?? middle));
      choose(number * places + clamp(row + step[0], rows) * columns + clamp(column + step[1], columns));
    });
  });
  document.body.classList.add("live");
  document.getElementById("nearest").hidden = false;
}
