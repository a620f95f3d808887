// Two images in one frame: slider, side by side, difference, grid; zoom and pan of both.

import { useEffect, useRef, useState } from "preact/hooks";
import { select } from "./archive";
import { download } from "./runfile";
import { update, useApp, w, type Run } from "./state";
import { useFile, type LoadedImage } from "./ui";

export type View = "slide" | "beside" | "differ" | "grid";

interface ViewerProps {
  before: LoadedImage | null;
  after: LoadedImage | null;
  names: [string, string];
  preview?: string;
  grid?: string[];
  run?: Run;
}

const MAX_ZOOM = 12;

export function Viewer({ before, after, names, preview, grid = [], run }: ViewerProps) {
  const [view, setView] = useState<View>("slide");
  const [split, setSplit] = useState(50);
  const [zoom, setZoom] = useState(1);
  const [pan, setPan] = useState<[number, number]>([0, 0]);
  const box = useRef<HTMLDivElement>(null);
  const pointers = useRef(new Map<number, [number, number]>());
  const text = w();
  const mode = view === "grid" && grid.length < 2 ? "slide" : view;
  const size = after?.file ?? before?.file;

  const moved = ([x, y]: [number, number], level = zoom): [number, number] => {
    const limit = (part: number, side: number) => Math.max(-side, Math.min(side, part)) || 0;
    const { clientWidth, clientHeight } = box.current ?? { clientWidth: 0, clientHeight: 0 };
    const width = mode === "beside" ? clientWidth / 2 : clientWidth;
    return [limit(x, ((level - 1) * width) / 2), limit(y, ((level - 1) * clientHeight) / 2)];
  };
  const zoomTo = (level: number, around?: [number, number]) => {
    const next = Math.min(MAX_ZOOM, Math.max(1, level));
    const [x, y] = around ?? [0, 0];
    const factor = next / zoom;
    setZoom(next);
    setPan(moved([x - (x - pan[0]) * factor, y - (y - pan[1]) * factor], next));
  };
  /** Of an event, measured from the middle of the image under it. */
  const fromMiddle = (event: MouseEvent): [number, number] => {
    const rect = (box.current as HTMLElement).getBoundingClientRect();
    const width = mode === "beside" ? rect.width / 2 : rect.width;
    const x = (event.clientX - rect.left) % width;
    return [x - width / 2, event.clientY - rect.top - rect.height / 2];
  };
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    // Pinching a trackpad comes as a wheel with ctrl; a plain wheel keeps scrolling the page.
    const onWheel = (event: WheelEvent) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoomTo(zoom * Math.exp(-event.deltaY / 200), fromMiddle(event));
    };
    element.addEventListener("wheel", onWheel, { passive: false });
    return () => element.removeEventListener("wheel", onWheel);
  });
  const onPointerMove = (event: PointerEvent) => {
    const last = pointers.current.get(event.pointerId);
    if (!last) return;
    const others = [...pointers.current].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    const [other] = others;
    if (other) {
      const apart = (at: [number, number]) => Math.hypot(at[0] - other[0], at[1] - other[1]);
      zoomTo((zoom * apart([event.clientX, event.clientY])) / Math.max(1, apart(last)), fromMiddle(event));
    } else if (zoom > 1) {
      setPan(moved([pan[0] + event.clientX - last[0], pan[1] + event.clientY - last[1]]));
    }
    pointers.current.set(event.pointerId, [event.clientX, event.clientY]);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.target !== event.currentTarget) return;
    const by = 60;
    const moves: Record<string, [number, number]> = {
      ArrowLeft: [by, 0],
      ArrowRight: [-by, 0],
      ArrowUp: [0, by],
      ArrowDown: [0, -by],
    };
    const move = moves[event.key];
    if (move && zoom > 1) setPan(moved([pan[0] + move[0], pan[1] + move[1]]));
    else if (event.key === "+" || event.key === "=") zoomTo(zoom * 1.5);
    else if (event.key === "-") zoomTo(zoom / 1.5);
    else if (event.key === "0") zoomTo(1);
    else return;
    event.preventDefault();
  };

  const transform = { transform: `translate(${pan[0]}px, ${pan[1]}px) scale(${zoom})` };
  const views: [View, string][] = [
    ["slide", text.slide],
    ["beside", text.beside],
    ["differ", text.differ],
    ...(grid.length > 1 ? ([["grid", text.grid]] as [View, string][]) : []),
  ];
  const overlay = after ?? null;
  return (
    <>
      <div
        class={`viewer view-${overlay ? mode : "single"} ${zoom > 1 ? "zoomed" : ""}`}
        ref={box}
        role="group"
        aria-label={text.stage}
        tabIndex={0}
        style={{ "--ratio": String(size ? size.width / size.height : 1.5) }}
        onKeyDown={onKeyDown}
        onPointerDown={(event) => {
          if (event.target instanceof HTMLInputElement || (zoom === 1 && event.pointerType === "mouse")) return;
          if (event.pointerType === "mouse") event.currentTarget.setPointerCapture(event.pointerId);
          pointers.current.set(event.pointerId, [event.clientX, event.clientY]);
        }}
        onPointerMove={onPointerMove}
        onPointerUp={(event) => pointers.current.delete(event.pointerId)}
        onPointerCancel={(event) => pointers.current.delete(event.pointerId)}
        onPointerLeave={(event) => pointers.current.delete(event.pointerId)}
        onDblClick={(event) => zoomTo(zoom > 1 ? 1 : 3, fromMiddle(event))}
      >
        {mode === "grid" && overlay && run ? (
          <Grid run={run} />
        ) : (
          <>
            {before ? (
              <div class="layer before">
                <img src={before.url} alt={names[0]} style={transform} draggable={false} />
              </div>
            ) : (
              !overlay && <Empty />
            )}
            {preview && !overlay && (
              <div class="layer">
                <img class="preview" src={preview} alt={text.preview} style={transform} draggable={false} />
              </div>
            )}
            {overlay && (
              <div
                class="layer after"
                style={{ clipPath: mode === "slide" && before ? `inset(0 0 0 ${split}%)` : "none" }}
              >
                <img src={overlay.url} alt={names[1]} style={transform} draggable={false} />
              </div>
            )}
            {overlay && before && (
              <>
                {mode === "slide" && <div class="divider" style={{ left: `${split}%` }} aria-hidden="true" />}
                {mode === "slide" && (
                  <input
                    class="splitter"
                    type="range"
                    min={0}
                    max={100}
                    step={0.5}
                    value={split}
                    aria-label={text.slider}
                    onInput={(event) => setSplit(Number(event.currentTarget.value))}
                  />
                )}
                {mode !== "differ" && (
                  <>
                    <span class="corner left">{names[0]}</span>
                    <span class="corner right">{names[1]}</span>
                  </>
                )}
              </>
            )}
          </>
        )}
      </div>
      {overlay && (
        <div class="viewer-tools">
          <div class="segments" role="group" aria-label={text.views}>
            {views.map(([name, title]) => (
              <button key={name} type="button" aria-pressed={mode === name} onClick={() => setView(name)}>
                {title}
              </button>
            ))}
          </div>
          <span class="spacer" />
          <div class="segments" role="group" aria-label={text.zoomIn}>
            <button type="button" aria-label={text.zoomOut} disabled={zoom <= 1} onClick={() => zoomTo(zoom / 1.5)}>
              −
            </button>
            <button type="button" onClick={() => zoomTo(1)} disabled={zoom <= 1}>
              {zoom > 1 ? `${Math.round(zoom * 100)} %` : text.fit}
            </button>
            <button type="button" aria-label={text.zoomIn} disabled={zoom >= MAX_ZOOM} onClick={() => zoomTo(zoom * 1.5)}>
              +
            </button>
          </div>
          {run && (
            <button type="button" onClick={() => download(overlay.file.blob, overlay.file.name)}>
              {text.download}
            </button>
          )}
        </div>
      )}
      {run && grid.length > 1 && overlay && mode !== "grid" && <Strip run={run} />}
    </>
  );
}

function Empty() {
  const text = w();
  return (
    <div class="empty">
      <p>{text.empty}</p>
      <p class="hint">{text.emptyHint}</p>
    </div>
  );
}

const seedOf = (run: Run, index: number): string => (run.seed === null ? "?" : String(BigInt(run.seed) + BigInt(index)));

function Strip({ run }: { run: Run }) {
  return (
    <div class="strip">
      {run.results.map((id, index) => (
        <Answer key={id + String(index)} run={run} id={id} index={index} onChoose={() => update({ answer: index })} />
      ))}
    </div>
  );
}

function Grid({ run }: { run: Run }) {
  return (
    <div class="grid">
      {run.results.map((id, index) => (
        <Answer key={id + String(index)} run={run} id={id} index={index} large onChoose={() => select(run.id, index)} />
      ))}
    </div>
  );
}

interface AnswerProps {
  run: Run;
  id: string;
  index: number;
  large?: boolean;
  onChoose: () => void;
}

function Answer({ run, id, index, large, onChoose }: AnswerProps) {
  const image = useFile(id);
  const app = useApp();
  return (
    <button type="button" class="answer" aria-pressed={app.answer === index} onClick={onChoose}>
      {image && <img src={large ? image.url : image.thumbnail} alt="" draggable={false} />}
      <span>{w().seed(seedOf(run, index))}</span>
      {run.flagged[index] && <span class="note">{w().flaggedShort}</span>}
    </button>
  );
}
