// Light, dark, or as the system has it.

export type Theme = "auto" | "light" | "dark";
const KEPT = "retouch.theme";

export function readTheme(): Theme {
  const kept = localStorage.getItem(KEPT);
  return kept === "light" || kept === "dark" ? kept : "auto";
}

export function applyTheme(theme: Theme = readTheme()): void {
  localStorage.setItem(KEPT, theme);
  if (theme === "auto") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = theme;
}
