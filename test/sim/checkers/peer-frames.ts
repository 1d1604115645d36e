import type { FetchedFrame } from '../../../common/wire-peer.ts'
import { PEER_PATH } from '../../../common/wire-peer.ts'
import { decodePeerFrame } from '../../../common/wire-peer-codec.ts'
import { decodeMessage } from '../../../hub/engines/cluster/quorum/codec.ts'
import type { Message } from '../../../hub/raft/types.ts'
import type { Pipe } from '../pipe.ts'
import type { SimProcess } from '../process.ts'

/** What nodes say to each other, as they say it, whatever becomes of it on the way. */

export interface PeerFrameListeners {
  raft(message: Message, from: SimProcess): void
  fetched(frame: FetchedFrame, from: SimProcess): void
}

// A frame begins with a CBOR map of few keys, `t` first.
const TAG_AT = 4
const TAGS = ['raft', 'fetched', 'node-heartbeat'] as const

/** Which of the frames that matter it is, without decoding it. */
export function peerTag(data: Uint8Array): (typeof TAGS)[number] | null {
  // 0x61 0x74: the text "t"; then a text of that many bytes.
  if (data[1] !== 0x61 || data[2] !== 0x74) return null
  const length = (data[TAG_AT - 1] ?? 0) - 0x60
  return TAGS.find(tag => tag.length === length && startsWith(data, tag)) ?? null
}

function startsWith(data: Uint8Array, tag: string): boolean {
  for (let index = 0; index < tag.length; index++) {
    if (data[TAG_AT + index] !== tag.charCodeAt(index)) return false
  }
  return true
}

/** Shows a message to who listens. */
export function showPeerFrame(data: Uint8Array, pipe: Pipe, listeners: PeerFrameListeners): void {
  const { connection, from } = pipe
  if (connection.path !== PEER_PATH) return
  const tag = peerTag(data)
  if (tag === null) return
  if (tag === 'fetched') {
    const frame = decodePeerFrame(data, 'server')
    if (frame.t === 'fetched') listeners.fetched(frame, from.process)
    return
  }
  if (tag !== 'raft') return
  const frame = decodePeerFrame(data, 'dialler')
  if (frame.t !== 'raft') return
  for (const message of frame.messages) listeners.raft(decodeMessage(message), from.process)
}
