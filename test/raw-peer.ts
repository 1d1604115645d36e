import type { Link, LinkClosed } from '../common/env.ts'
import type { Frame } from '../common/wire.ts'
import type { ExpectedFrames } from '../common/wire-codec.ts'
import { decodeFrame, encodeFrame } from '../common/wire-codec.ts'

/** One end of a link that speaks frames as a test says, without any of our session logic. */
export interface RawPeer<F> {
  send(frame: Frame): void
  sendBytes(bytes: Uint8Array): void
  /** The next frame not yet taken; rejects after 5 s, or when the link closed without one. */
  next(): Promise<F>
  /** The next frame, which must be of type `t`. */
  expect<T extends string>(t: T): Promise<Extract<F, { t: T }>>
  /** Frames that came and were not taken. */
  waiting(): F[]
  whenClosed: Promise<LinkClosed>
  link: Link
}

export function rawPeer<E extends keyof ExpectedFrames>(link: Link, expected: E): RawPeer<ExpectedFrames[E]> {
  const frames: ExpectedFrames[E][] = []
  let wake: () => void = () => {}
  let closed: LinkClosed | null = null
  let resolveClosed: (closed: LinkClosed) => void = () => {}
  const whenClosed = new Promise<LinkClosed>(resolve => {
    resolveClosed = resolve
  })
  link.handle({
    message: data => {
      frames.push(decodeFrame(data, expected))
      wake()
    },
    drain: () => {},
    close: reason => {
      closed = reason
      resolveClosed(reason)
      wake()
    },
  })

  async function next(): Promise<ExpectedFrames[E]> {
    const until = Date.now() + 5_000
    for (;;) {
      const frame = frames.shift()
      if (frame !== undefined) return frame
      if (closed !== null) throw new Error(`no frame came: closed ${closed.code} ${closed.reason}`)
      if (Date.now() >= until) throw new Error('no frame came in 5 s')
      await new Promise<void>(resolve => {
        const timer = setTimeout(resolve, until - Date.now())
        wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
  }

  function isType<T extends string>(
    frame: ExpectedFrames[E],
    t: T,
  ): frame is Extract<ExpectedFrames[E], { t: T }> {
    return frame.t === t
  }

  return {
    send: frame => void link.send(encodeFrame(frame)),
    sendBytes: bytes => void link.send(bytes),
    next,
    expect: async t => {
      const frame = await next()
      if (!isType(frame, t)) throw new Error(`expected ${t}, got ${JSON.stringify(frame)}`)
      return frame
    },
    waiting: () => frames,
    whenClosed,
    link,
  }
}

/** Waits until `condition` holds, up to 5 s. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const limitMs = Date.now() + 5_000
  while (!condition()) {
    if (Date.now() > limitMs) throw new Error(`waited 5 s for: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 2))
  }
}
