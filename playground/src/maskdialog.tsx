// Painting the area that may change, with a brush, by pointer or by keyboard.

import { useEffect, useRef, useState } from "preact/hooks";
import { renderMask, type Stroke } from "./mask";
import { w } from "./state";
import type { Mask } from "./store";
import { Dialog, useFile } from "./ui";

const STEP = 0.02;

interface Props {
  file: string;
  mask: Mask | null;
  onChange: (mask: Mask | null) => void;
  onClose: () => void;
}

export function MaskDialog({ file, mask, onChange, onClose }: Props) {
  const image = useFile(file);
  const canvas = useRef<HTMLCanvasElement>(null);
  const [brush, setBrush] = useState(12);
  const [cursor, setCursor] = useState<[number, number]>([0.5, 0.5]);
  const [keyboard, setKeyboard] = useState(false);
  const [current, setCurrent] = useState<Stroke | null>(null);
  const text = w();
  const strokes = mask?.strokes ?? [];
  const inverted = mask?.inverted ?? false;
  const set = (next: Stroke[], inverse = inverted) =>
    onChange(next.length || inverse ? { strokes: next, inverted: inverse } : null);

  useEffect(() => {
    const target = canvas.current;
    const context = target?.getContext("2d");
    if (!target || !context || !image) return;
    const { width, height } = image.file;
    const scale = Math.min(1, 1200 / Math.max(width, height));
    target.width = Math.round(width * scale);
    target.height = Math.round(height * scale);
    const all = current ? [...strokes, current] : strokes;
    context.drawImage(renderMask(all, inverted, target.width, target.height), 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = "#e0457b";
    context.fillRect(0, 0, target.width, target.height);
  });

  const at = (event: PointerEvent): [number, number] => {
    const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  const size = brush / 100;
  const onKeyDown = (event: KeyboardEvent) => {
    const moves: Record<string, [number, number]> = {
      ArrowLeft: [-STEP, 0],
      ArrowRight: [STEP, 0],
      ArrowUp: [0, -STEP],
      ArrowDown: [0, STEP],
    };
    const move = moves[event.key];
    if (move) {
      event.preventDefault();
      setCursor([clamp(cursor[0] + move[0]), clamp(cursor[1] + move[1])]);
    } else if (event.key === " ") {
      event.preventDefault();
      set([...strokes, { size, points: [cursor] }]);
    } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      set(strokes.slice(0, -1));
    }
  };
  return (
    <Dialog title={text.maskTitle} onClose={onClose} wide>
      <p class="hint">{text.maskHint}</p>
      <div class="mask-area">
        {image && (
          <div class="mask-frame" style={{ "--ratio": String(image.file.width / image.file.height) }}>
            <img src={image.url} alt="" />
            <canvas
              ref={canvas}
              tabIndex={0}
              role="application"
              aria-label={text.maskTitle}
              onFocus={(event) => setKeyboard(event.currentTarget.matches(":focus-visible"))}
              onBlur={() => setKeyboard(false)}
              onKeyDown={onKeyDown}
              onPointerDown={(event) => {
                event.currentTarget.setPointerCapture(event.pointerId);
                setCurrent({ size, points: [at(event)] });
              }}
              onPointerMove={(event) => {
                setCursor(at(event));
                if (current) setCurrent({ ...current, points: [...current.points, at(event)] });
              }}
              onPointerUp={() => {
                if (current) set([...strokes, current]);
                setCurrent(null);
              }}
            />
            <div
              class={keyboard ? "brush seen" : "brush"}
              style={{ left: `${cursor[0] * 100}%`, top: `${cursor[1] * 100}%`, width: `${brush}%` }}
            />
          </div>
        )}
      </div>
      <div class="row wrap">
        <label class="inline">
          {text.brush}
          <input type="range" min={2} max={40} value={brush} onInput={(event) => setBrush(Number(event.currentTarget.value))} />
        </label>
        <button type="button" disabled={!strokes.length} onClick={() => set(strokes.slice(0, -1))}>
          {text.undo}
        </button>
        <button type="button" disabled={!mask} onClick={() => set([], false)}>
          {text.clear}
        </button>
        <button type="button" aria-pressed={inverted} onClick={() => set(strokes, !inverted)}>
          {text.invert}
        </button>
        <span class="spacer" />
        <button type="button" class="primary" onClick={onClose}>
          {text.maskDone}
        </button>
      </div>
    </Dialog>
  );
}

const clamp = (part: number): number => Math.min(1, Math.max(0, part));
