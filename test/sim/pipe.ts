import type { LinkClosed, LinkHandlers } from '../../common/env.ts'
import type { SimProcess } from './process.ts'

/** One connection's two ends, and what is on its way between them: reliable streams, as TCP makes them. */

/** What travels. A reset ends the connection without the manners of `close`. */
export type Item = { data: Uint8Array } | { close: LinkClosed } | { reset: true }

/** An end of a connection. */
export interface End {
  readonly process: SimProcess
  handlers: LinkHandlers | null
  /** Came before there were handlers. */
  early: Uint8Array[]
  closed: LinkClosed | null
  closing: boolean
  reading: boolean
  /** Its machine lost power: nothing that is sent to it is ever answered. */
  gone: boolean
}

/** One direction. Items arrive in order, each not before its time. */
export interface Pipe {
  readonly connection: Connection
  readonly from: End
  readonly to: End
  items: { item: Item; atMs: number }[]
  bytes: number
  /** The sender was told to wait. */
  isFull: boolean
  scheduled: boolean
  /** Set while it swallows what it carries, as one connection in trouble does. */
  isStalled: boolean
}

export interface Connection {
  readonly there: Pipe
  readonly back: Pipe
  readonly highWaterBytes: number
  /** The path it was dialled to, such as /v1/peer. */
  readonly path: string
}

export function newConnection(
  dialler: SimProcess,
  listener: SimProcess,
  path: string,
  highWaterBytes: number,
): Connection {
  const [left, right] = [newEnd(dialler), newEnd(listener)]
  const connection: Connection = {
    path,
    highWaterBytes,
    get there() {
      return there
    },
    get back() {
      return back
    },
  }
  const there = newPipe(connection, left, right)
  const back = newPipe(connection, right, left)
  return connection
}

function newEnd(process: SimProcess): End {
  return { process, handlers: null, early: [], closed: null, closing: false, reading: true, gone: false }
}

function newPipe(connection: Connection, from: End, to: End): Pipe {
  return {
    connection,
    from,
    to,
    items: [],
    bytes: 0,
    isFull: false,
    scheduled: false,
    isStalled: false,
  }
}

export function isOver({ there }: Connection): boolean {
  return there.from.closed !== null && there.to.closed !== null
}

export function emptyPipe(pipe: Pipe): void {
  pipe.items = []
  pipe.bytes = 0
}
