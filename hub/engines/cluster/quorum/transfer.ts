import { assert } from '../../../../common/assert.ts'
import { concat, equalBytes } from '../../../../common/bytes.ts'
import type { Clock } from '../../../../common/env.ts'
import { KIB, MIB, SECOND_MS } from '../../../../common/limits.ts'
import type { SnapshotChunk } from '../../../../common/wire-peer.ts'
import type { MemberId, Message } from '../../../raft/types.ts'
import { nodeIdOf } from '../../../raft/types.ts'
import { decodeMessage, encodeMessage } from './codec.ts'
import { decodeSnapshotFile } from './snapshot-file.ts'

/** Snapshots on their way: a file in pieces over the link to the node that is behind, put together there. */

const CHUNK_BYTES = 256 * KIB
/** A receiver that takes nothing for so long is given up. */
const STALL_MS = 10 * SECOND_MS
/** A sender looks so often whether the link takes more. */
const RETRY_MS = 10
/** The largest snapshot taken: it is held in memory until it is whole. */
const MAX_SNAPSHOT_BYTES = 1024 * MIB

export interface SenderContext {
  clock: Clock
  /** The newest snapshot's file. */
  file(): Promise<Uint8Array>
  /** False, and not sent, where the link is down or has too much to send. */
  send(nodeId: number, chunk: SnapshotChunk): boolean
  isUp(nodeId: number): boolean
  /** Once for each message. */
  sent(to: MemberId, ok: boolean): void
}

/** Gives the function that sends a snapshot's message together with the snapshot. */
export function createSnapshotSender(context: SenderContext): (message: Message) => void {
  const { clock } = context
  const pause = (ms: number): Promise<void> => new Promise(resolve => clock.setTimer(resolve, ms))

  async function offer(nodeId: number, chunk: SnapshotChunk): Promise<boolean> {
    for (let waitedMs = 0; waitedMs < STALL_MS && context.isUp(nodeId); waitedMs += RETRY_MS) {
      if (context.send(nodeId, chunk)) return true
      await pause(RETRY_MS)
    }
    return false
  }

  async function transfer(message: Message): Promise<boolean> {
    assert(message.t === 'snapshot', `a ${message.t} is no snapshot`)
    const file = await context.file()
    const { mark } = decodeSnapshotFile(file)
    // A newer one has taken its place: the next message will be of that.
    if (mark.index !== message.snapshot.index || mark.term !== message.snapshot.term) return false
    const head = encodeMessage(message)
    const nodeId = nodeIdOf(message.to)
    for (let position = 0; position < file.length; position += CHUNK_BYTES) {
      const bytes = file.subarray(position, position + CHUNK_BYTES)
      const chunk = { t: 'snapshot-chunk', message: head, position, sizeBytes: file.length, bytes } as const
      if (!(await offer(nodeId, chunk))) return false
    }
    return true
  }

  return message => {
    transfer(message).then(
      ok => context.sent(message.to, ok),
      () => context.sent(message.to, false),
    )
  }
}

/** A snapshot that has arrived whole. */
export interface ReceivedSnapshot {
  message: Message
  file: Uint8Array
  values: readonly Uint8Array[]
}

/** Gives the function that takes pieces, and the snapshot with its last one. One at a time: the latest one begun. */
export function createSnapshotReceiver(): (chunk: SnapshotChunk) => ReceivedSnapshot | null {
  let head: Uint8Array | null = null
  let pieces: Uint8Array[] = []
  let received = 0

  function forget(): void {
    head = null
    pieces = []
    received = 0
  }

  return chunk => {
    const { message, position, sizeBytes, bytes } = chunk
    if (position === 0) {
      forget()
      head = message
    }
    const follows = head !== null && equalBytes(head, message) && position === received
    if (!follows || sizeBytes > MAX_SNAPSHOT_BYTES || received + bytes.length > sizeBytes) {
      forget()
      return null
    }
    pieces.push(bytes)
    received += bytes.length
    if (received < sizeBytes) return null
    const file = concat(pieces)
    forget()
    return whole(decodeMessage(message), file)
  }
}

function whole(message: Message, file: Uint8Array): ReceivedSnapshot | null {
  if (message.t !== 'snapshot') return null
  const { mark, records, damaged } = decodeSnapshotFile(file)
  const { index, term } = message.snapshot
  if (damaged > 0 || mark.index !== index || mark.term !== term) return null
  return { message, file, values: records }
}
