import { eachBatch } from '../../../common/batch.ts'
import { buildBatch } from '../../../common/batch-builder.ts'
import { decodePlain } from '../../../common/batch-records.ts'
import { utf8, utf8Text } from '../../../common/bytes.ts'
import { TributaryError } from '../../../common/errors.ts'
import { MIB, SECOND_MS } from '../../../common/limits.ts'
import type { PartitionRef } from '../../../common/wire-peer.ts'
import type { Partition } from '../../replica/partition.ts'
import type { PartitionTable } from './partitions.ts'
import type { PartitionPlace, Routes } from './routes.ts'

/**
 * `_gaps` at its leader: who tells of a gap may tell it again, and so may the next leader of its partition, yet it is written once. For
 * this it is remembered how far `_gaps` tells of each partition, from `_gaps` itself when leading begins.
 */

/** One record of `_gaps`. What is null is not known, or was no edge's. */
export interface GapNotice {
  topic: string
  topicId: string
  partition: number
  /** Of the gap's control batch; the first offset lost where the hub's own disk lost records. */
  offset: number
  edge: string | null
  lane: number | null
  run: number | null
  from: number
  to: number
  count: number | null
  /** Of how many keys, where a policy of the edge dropped `count` readings. */
  keys: number | null
  reason: string
  firstMs: number | null
  lastMs: number | null
  declaredMs: number
}

export interface GapLog {
  /** The offset of the last gap told of each partition, -1 without any. Rejects with `not_available` where this node does not lead `_gaps` as `ref` says. */
  toldTo(ref: PartitionRef, sources: readonly PartitionPlace[]): Promise<number[]>
  /** Writes the notices that are not written yet; resolves when all are committed. Those of a partition come in the order of their offsets. */
  write(ref: PartitionRef, notices: readonly Uint8Array[]): Promise<void>
  /** Writes one that was never told, in the commit of this turn; null where that can't be. */
  writeNow(topicId: string, notice: GapNotice): Promise<void> | null
}

export interface GapLogContext {
  routes: Pick<Routes, 'enter' | 'now' | 'topic'>
  partitions: Pick<PartitionTable, 'peek' | 'use'>
}

/** How long a call waits for this node to hear that it leads `_gaps`. */
const HEAR_WAIT_MS = 3 * SECOND_MS

interface Told {
  readonly leaderEpoch: number
  readonly last: Map<string, number>
  /** Stretches lost by disks. */
  readonly damage: Set<string>
}

/** What is told again where damage is, and only once. */
export function damageKey({ topicId, partition, from, to }: GapNotice): string {
  return `damage/${topicId}/${partition}/${from}-${to}`
}

export function encodeNotice(notice: GapNotice): Uint8Array {
  return utf8(JSON.stringify(notice))
}

export function createGapLog({ routes, partitions }: GapLogContext): GapLog {
  let told: Told | null = null
  /** Written while it was not known how far `_gaps` tells; a look at its log may have missed them. */
  let unread: GapNotice[] = []
  /** One after another: what is on its way counts as written only when it is. */
  let last: Promise<unknown> = Promise.resolve()

  function inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = last.then(work, work)
    last = done.catch(() => {})
    return done
  }

  /** Runs `lead` where this node leads `_gaps` under the epoch asked for. */
  function leading<T>(ref: PartitionRef, lead: (known: Told) => Promise<T>): Promise<T> {
    const { topicId, partition, leaderEpoch } = ref
    const hand = (): Promise<T> =>
      inTurn(async () => {
        const replica = partitions.peek(topicId, partition)
        if (told?.leaderEpoch !== leaderEpoch) {
          told = null
          const found = await load(replica, leaderEpoch)
          for (const notice of unread.splice(0)) remember(found, notice)
          told = found
        }
        return lead(told)
      })
    return routes.enter(
      topicId,
      partition,
      HEAR_WAIT_MS,
      route => {
        if (route.at === 'here' && route.leaderEpoch === leaderEpoch) return hand()
        const details = { leader: route.at === 'here' ? null : route.nodeId }
        return Promise.reject(
          new TributaryError('not_available', 'this node does not lead _gaps', { details }),
        )
      },
      leaderEpoch,
    )
  }

  async function append(topicId: string, notice: GapNotice, value: Uint8Array): Promise<void> {
    const key = notice.edge === null ? null : utf8(notice.edge)
    const batch = buildBatch([{ key, value, headers: [], timestampMs: notice.declaredMs }])
    await partitions.use(routes.topic(topicId, 0), 0, replica => replica.appendOwn(batch))
  }

  async function write(ref: PartitionRef, notices: readonly Uint8Array[]): Promise<void> {
    await leading(ref, async known => {
      const appends: Promise<void>[] = []
      for (const value of notices) {
        const notice = readNotice(value)
        if (notice === null) throw new TributaryError('invalid_argument', 'this is no notice of a gap')
        if (!isNews(known, notice)) continue
        remember(known, notice)
        appends.push(append(ref.topicId, notice, value))
      }
      // All of them: what is on its way when one has failed would not be seen by whoever comes next.
      const results = await Promise.allSettled(appends)
      const failed = results.find(result => result.status === 'rejected')
      if (failed === undefined) return
      // What of them is there is read again.
      told = null
      throw failed.reason
    })
  }

  return {
    toldTo: (ref, sources) =>
      leading(ref, async ({ last: offsets }) => sources.map(source => offsets.get(sourceKey(source)) ?? -1)),
    write,
    writeNow: (topicId, notice) => {
      const route = routes.now(topicId, 0)
      if (route?.at !== 'here' || partitions.peek(topicId, 0)?.isOpen() !== true) return null
      if (told?.leaderEpoch === route.leaderEpoch) remember(told, notice)
      else unread.push(notice)
      return append(topicId, notice, encodeNotice(notice)).catch(error => {
        told = null
        unread = unread.filter(other => other !== notice)
        throw error
      })
    },
  }
}

/** Reads all of `_gaps`, and waits before for what its log holds that is not committed yet: this leader may have written it itself. */
async function load(replica: Partition | null, leaderEpoch: number): Promise<Told> {
  const told: Told = { leaderEpoch, last: new Map(), damage: new Set() }
  if (replica === null) return told
  const before = replica.bounds()
  if (before.highWatermark < before.endOffset) await replica.committed()
  const { startOffset, highWatermark } = replica.bounds()
  for (let offset = startOffset; offset < highWatermark; ) {
    const { batches, nextOffset, release } = await replica.read(offset, MIB)
    for (const { at, header } of eachBatch(batches)) {
      if (header.isControl || header.compression !== 'none') continue
      for (const { value } of decodePlain(batches, at)) {
        const notice = value === null ? null : readNotice(value)
        if (notice !== null) remember(told, notice)
      }
    }
    release?.()
    if (nextOffset <= offset) break
    offset = nextOffset
  }
  return told
}

function isNews({ last, damage }: Told, notice: GapNotice): boolean {
  if (isDamage(notice)) return !damage.has(damageKey(notice))
  return notice.offset > (last.get(sourceKey(notice)) ?? -1)
}

function remember({ last, damage }: Told, notice: GapNotice): void {
  if (isDamage(notice)) damage.add(damageKey(notice))
  else last.set(sourceKey(notice), Math.max(notice.offset, last.get(sourceKey(notice)) ?? -1))
}

function isDamage({ edge, reason }: GapNotice): boolean {
  return edge === null && reason === 'damage'
}

export function sourceKey({ topicId, partition }: PartitionPlace): string {
  return `${topicId}/${partition}`
}

function isNotice(value: unknown): value is GapNotice {
  if (typeof value !== 'object' || value === null) return false
  const { topicId, partition, offset, reason }: Partial<Record<keyof GapNotice, unknown>> = value
  return (
    typeof topicId === 'string' &&
    typeof partition === 'number' &&
    typeof offset === 'number' &&
    typeof reason === 'string' &&
    'edge' in value &&
    'from' in value &&
    'to' in value
  )
}

/** The notice that a record of `_gaps` holds; null where it holds something else. */
function readNotice(value: Uint8Array): GapNotice | null {
  try {
    const parsed: unknown = JSON.parse(utf8Text(value))
    return isNotice(parsed) ? parsed : null
  } catch {
    return null
  }
}
