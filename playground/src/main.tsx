import { render } from "preact";
import { App } from "./app";
import { start } from "./start";
import { applyTheme } from "./theme";

applyTheme();
render(<App />, document.getElementById("page") as HTMLElement);
void start();
