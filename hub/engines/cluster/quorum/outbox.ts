import type { Message } from '../../../raft/types.ts'
import { nodeIdOf } from '../../../raft/types.ts'
import type { Peers } from '../types.ts'
import { encodeMessage } from './codec.ts'

/** Gives the function that sends a message of the quorum; those of one turn to one node go in one frame. */
export function createOutbox(peers: Pick<Peers, 'send'>): (message: Message) => void {
  let messages = new Map<number, Uint8Array[]>()

  function flush(): void {
    const sending = messages
    messages = new Map()
    for (const [nodeId, bytes] of sending) peers.send(nodeId, { t: 'raft', messages: bytes })
  }

  return message => {
    if (messages.size === 0) queueMicrotask(flush)
    const to = nodeIdOf(message.to)
    const waiting = messages.get(to)
    const bytes = encodeMessage(message)
    if (waiting === undefined) messages.set(to, [bytes])
    else waiting.push(bytes)
  }
}
