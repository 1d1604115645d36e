import type { FetchedFrame, FetchFrame } from '../../../common/wire-peer.ts'
import type { FetchService, Replication } from './types.ts'

/** Replication that other nodes may ask for before this node's partitions are open: what they ask waits until then. */
export interface LateReplication {
  replication: Replication
  serve(replication: Replication): void
}

interface Early {
  nodeId: number
  reply(frame: FetchedFrame): void
  /** A follower sends one at a time before it is answered, and few more. */
  frames: FetchFrame[]
  served: FetchService | null
  closed: boolean
}

export function createLateReplication(): LateReplication {
  let ready: Replication | null = null
  let early: Early[] = []

  function serveEarly(one: Early, replication: Replication): void {
    if (one.closed) return
    one.served = replication.serve(one.nodeId, one.reply)
    for (const frame of one.frames.splice(0)) one.served.fetch(frame)
  }

  return {
    replication: {
      serve: (nodeId, reply) => {
        if (ready !== null) return ready.serve(nodeId, reply)
        const one: Early = { nodeId, reply, frames: [], served: null, closed: false }
        early.push(one)
        return {
          fetch: frame => {
            if (one.served === null) one.frames.push(frame)
            else one.served.fetch(frame)
          },
          close: () => {
            one.closed = true
            early = early.filter(other => other !== one)
            one.served?.close()
          },
        }
      },
      fetched: (nodeId, frame) => ready?.fetched(nodeId, frame),
    },
    serve: replication => {
      ready = replication
      for (const one of early) serveEarly(one, replication)
      early = []
    },
  }
}
