import type { FetchedFrame, FetchFrame } from '../../../common/wire-peer.ts'
import { PEER_PATH } from '../../../common/wire-peer.ts'
import { decodePeerFrame } from '../../../common/wire-peer-codec.ts'
import { decodeMessage } from '../../../hub/engines/cluster/quorum/codec.ts'
import type { Message } from '../../../hub/raft/types.ts'
import type { Pipe } from '../pipe.ts'
import type { SimProcess } from '../process.ts'

/** What nodes say to each other, as they say it, whatever becomes of it on the way. */

export interface PeerFrameListeners {
  raft(message: Message): void
  fetch(frame: FetchFrame, from: SimProcess): void
  fetched(frame: FetchedFrame, from: SimProcess): void
  /** A call that came under the epoch of a leader that is one no more. */
  outdated(): void
}

// A frame begins with a CBOR map of few keys, `t` first.
const TAG_AT = 4
const TAGS = ['raft', 'fetch', 'fetched', 'answer', 'node-heartbeat', 'snapshot-chunk'] as const

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

const ERROR_BYTES = 512

function isOutdated(data: Uint8Array): boolean {
  if (data.length > ERROR_BYTES) return false
  return Buffer.from(data.buffer, data.byteOffset, data.length).includes('does not lead partition')
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
  if (tag === 'answer' && isOutdated(data)) listeners.outdated()
  if (tag !== 'raft' && tag !== 'fetch' && tag !== 'snapshot-chunk') return
  const frame = decodePeerFrame(data, 'dialler')
  if (frame.t === 'fetch') listeners.fetch(frame, from.process)
  // Each piece has it.
  if (frame.t === 'snapshot-chunk' && frame.position === 0) listeners.raft(decodeMessage(frame.message))
  if (frame.t === 'raft') for (const message of frame.messages) listeners.raft(decodeMessage(message))
}
