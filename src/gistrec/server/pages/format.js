// Numbers as people read them. 1 KB is 1,024 bytes, as everywhere in gistrec.

export const number = (value, digits = 0) => value.toLocaleString("en",
  {minimumFractionDigits: digits, maximumFractionDigits: digits});

export function bytes(value, digits = 1) {
  if (value === null || value === undefined) return "–";
  let unit = "B";
  for (const next of ["KB", "MB", "GB", "TB", "PB"]) {
    if (value < 1000) break;
    value /= 1024;
    unit = next;
  }
  return `${number(value, unit === "B" || value >= 100 ? 0 : digits)} ${unit}`;
}

export function ms(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1000) return `${number(value / 1000, 1)} s`;
  return `${number(value, value >= 100 ? 0 : value >= 10 ? 1 : 2)} ms`;
}

export const rate = value => value === null ? "–" : number(value, value && value < 10 ? 1 : 0);

export const percent = (share, digits = 0) => share === null || share === undefined ? "–"
  : share.toLocaleString("en", {style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits});

export const day = seconds => new Date(seconds * 1000).toISOString().slice(0, 10);

export const time = seconds => new Date(seconds * 1000).toISOString().slice(11, 16);

export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;
