import type { Writable } from 'node:stream'
import type { Clock } from '../env.ts'

/** Progress of what takes long: a bar on a terminal, a line now and then elsewhere. */
export interface Progress {
  /** `done` of `total`; `total` may grow. */
  show(done: number, total: number): void
  /** Ends the line. */
  end(): void
}

const WIDTH = 30
/** Between two lines where there is no terminal to draw on. */
const LINE_EVERY_MS = 5_000

/** A bar named `what`, drawn on `stream`. */
export function createProgress(
  stream: Writable & { isTTY?: boolean },
  clock: Pick<Clock, 'monotonicMs'>,
  what: string,
): Progress {
  let shownMs = Number.NEGATIVE_INFINITY
  let shownText = ''

  return {
    show: (done, total) => {
      const share = total === 0 ? 1 : Math.min(1, done / total)
      const filled = Math.floor(share * WIDTH)
      const bar = '#'.repeat(filled) + '-'.repeat(WIDTH - filled)
      const text = `${what} [${bar}] ${done}/${total}`
      if (text === shownText) return
      const nowMs = clock.monotonicMs()
      if (stream.isTTY) stream.write(`\r\u001b[K${text}`)
      else if (share === 1 || nowMs - shownMs >= LINE_EVERY_MS) stream.write(`${text}\n`)
      else return
      shownMs = nowMs
      shownText = text
    },
    end: () => {
      if (stream.isTTY && shownText !== '') stream.write('\n')
    },
  }
}
