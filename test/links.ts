import type { Link, LinkHandlers } from '../common/env.ts'

/** What becomes of a message: delivered, delivered and then the connection breaks, or lost as the connection breaks. */
export type Fate = 'deliver' | 'cut-after' | 'cut-before'

export interface LinkPairOptions {
  /** `send` returns false above it, `drain` comes below half of it. Default 64 KiB. */
  highWaterBytes?: number
  /** Asked for every message as it would arrive. */
  fate?: (to: 'left' | 'right', data: Uint8Array) => Fate
}

/** Two ends of one connection in memory, as `Link` promises: in order, whole, asynchronous, with back pressure. */
export interface LinkPair {
  left: Link
  right: Link
  /** The connection breaks: both ends see 1006, what is on the way is lost. */
  cut(): void
  /** Stops messages (and closes) towards one end, as a network that swallows packets. */
  hold(to: 'left' | 'right'): void
  release(to: 'left' | 'right'): void
  /** True once both ends have seen the close. */
  isClosed(): boolean
}

interface End {
  name: 'left' | 'right'
  handlers: LinkHandlers | null
  queue: (Uint8Array | { code: number; reason: string })[]
  queuedBytes: number
  paused: boolean
  held: boolean
  scheduled: boolean
  closed: boolean
  closing: boolean
}

function newEnd(name: 'left' | 'right'): End {
  return {
    name,
    handlers: null,
    queue: [],
    queuedBytes: 0,
    paused: false,
    held: false,
    scheduled: false,
    closed: false,
    closing: false,
  }
}

export function linkPair(options: LinkPairOptions = {}): LinkPair {
  const highWaterBytes = options.highWaterBytes ?? 65_536
  const left = newEnd('left')
  const right = newEnd('right')

  function finish(end: End, code: number, reason: string): void {
    if (end.closed) return
    end.closed = true
    end.queue = []
    end.queuedBytes = 0
    setImmediate(() => end.handlers?.close({ code, reason }))
  }

  function cut(): void {
    finish(left, 1006, '')
    finish(right, 1006, '')
  }

  function schedule(to: End, from: End): void {
    if (to.scheduled || to.closed || to.paused || to.held || to.queue.length === 0) return
    to.scheduled = true
    setImmediate(() => {
      to.scheduled = false
      if (!to.closed && !to.paused && !to.held) deliver(to, from)
      schedule(to, from)
    })
  }

  function deliver(to: End, from: End): void {
    const item = to.queue.shift()
    if (item === undefined) return
    if (!(item instanceof Uint8Array)) {
      finish(to, item.code, item.reason)
      finish(from, item.code, item.reason)
      return
    }
    const before = to.queuedBytes
    to.queuedBytes -= item.length
    const fate = options.fate?.(to.name, item) ?? 'deliver'
    if (fate !== 'cut-before') to.handlers?.message(item)
    if (fate !== 'deliver') {
      cut()
      return
    }
    const low = highWaterBytes / 2
    if (before >= low && to.queuedBytes < low && !from.closed) from.handlers?.drain()
  }

  function link(self: End, other: End): Link {
    return {
      remote: `memory:${other.name}`,
      handle: handlers => {
        self.handlers = handlers
        schedule(self, other)
      },
      send: data => {
        if (self.closed || self.closing) return false
        // As a socket does, the link owns what it was given: later changes by the sender must not show.
        other.queue.push(new Uint8Array(data))
        other.queuedBytes += data.length
        schedule(other, self)
        return other.queuedBytes < highWaterBytes
      },
      bufferedBytes: () => other.queuedBytes,
      pause: () => {
        self.paused = true
      },
      resume: () => {
        self.paused = false
        schedule(self, other)
      },
      close: (code, reason) => {
        if (self.closed || self.closing) return
        self.closing = true
        other.queue.push({ code, reason })
        schedule(other, self)
      },
      terminate: cut,
    }
  }

  const named = (name: 'left' | 'right'): [End, End] => (name === 'left' ? [left, right] : [right, left])
  return {
    left: link(left, right),
    right: link(right, left),
    cut,
    hold: to => {
      named(to)[0].held = true
    },
    release: to => {
      const [end, other] = named(to)
      end.held = false
      schedule(end, other)
    },
    isClosed: () => left.closed && right.closed,
  }
}
