import { eachBatch } from '../../../common/batch.ts'
import { buildBatch } from '../../../common/batch-builder.ts'
import { decodePlain } from '../../../common/batch-records.ts'
import { concat } from '../../../common/bytes.ts'
import type { Clock } from '../../../common/env.ts'
import { isTributaryError, TributaryError } from '../../../common/errors.ts'
import { MIB } from '../../../common/limits.ts'
import type { DataDir, Log } from '../../../common/log/types.ts'
import type { Plan } from '../../controller/controller.ts'
import type { Image, ImageRecord } from '../../controller/image.ts'
import { emptyImage } from '../../controller/image.ts'
import type { MetadataRecord } from '../../controller/records.ts'
import { decodeRecord, encodeRecord } from '../../controller/records.ts'
import type { OnDamage } from '../../replica/log-access.ts'
import { readPastDamage, tellKnownDamage } from '../../replica/log-access.ts'

/**
 * The single node's shell around the controller: its records go to a log, its responses leave after their commit. Raft
 * takes this place in a cluster. Requests that arrive while a commit is under way share the next one.
 */

export const METADATA_LOG = '__cluster_metadata'
/** Requests waiting for their turn; beyond it they are refused as `throttled`. */
const MAX_QUEUED_REQUESTS = 100_000
/** Requests that share a commit. */
const MAX_GROUP_REQUESTS = 1_000
/** The log begins anew with a snapshot when it is larger than this and than so many times the last snapshot. */
const SNAPSHOT_FROM_BYTES = 8 * MIB
const SNAPSHOT_AT_RATIO = 4
const RECORDS_PER_BATCH = 10_000
const MAX_BATCH_BYTES = 32 * MIB

const LOG_OPTIONS = {
  segmentBytes: MIB,
  segmentMs: Number.POSITIVE_INFINITY,
  retentionBytes: Number.POSITIVE_INFINITY,
  retentionMs: Number.POSITIVE_INFINITY,
  maxBatchBytes: MAX_BATCH_BYTES,
}

export interface Metadata {
  /** With what is on its way to the disk: whatever builds on that is committed after it. */
  image(): Image
  /** Judges a request when its turn comes and resolves with its response once its records are durable. */
  submit<Response>(rule: (image: Image) => Plan<Response>): Promise<Response>
  stats(): { requests: number; commits: number; snapshotFailures: number; logBytes: number }
}

interface Request {
  judge(image: Image): { records: ImageRecord[]; resolve(): void }
  reject(error: unknown): void
}

/** Opens the metadata log and replays it, passing over damage. Rejects with `directory_newer_format`, `corrupt_log`. */
export async function openMetadata(dataDir: DataDir, clock: Clock, onDamage: OnDamage): Promise<Metadata> {
  const log = await dataDir.openLog(METADATA_LOG, LOG_OPTIONS)
  tellKnownDamage(log, onDamage)
  let image = await replayLog(log, onDamage)
  let snapshotBytes = 0
  let queue: Request[] = []
  let committing = false
  let failure: unknown = null
  const counters = { requests: 0, commits: 0, snapshotFailures: 0 }

  /** Judges what waits, commits the records together, answers; goes on while there is more. */
  async function run(): Promise<void> {
    committing = true
    try {
      while (queue.length > 0) {
        const group = queue.slice(0, MAX_GROUP_REQUESTS)
        queue = queue.slice(MAX_GROUP_REQUESTS)
        await commitGroup(group)
      }
    } catch (error) {
      // The image can't be told any more: nothing is judged upon it until a restart.
      failure = error
      for (const request of queue) request.reject(error)
      queue = []
    } finally {
      committing = false
    }
  }

  async function commitGroup(group: readonly Request[]): Promise<void> {
    const records: ImageRecord[] = []
    const answers: (() => void)[] = []
    const judged: Request[] = []
    for (const request of group) {
      counters.requests++
      try {
        const plan = request.judge(image)
        for (const record of plan.records) image.replay(record)
        records.push(...plan.records)
        answers.push(plan.resolve)
        judged.push(request)
      } catch (error) {
        request.reject(error)
      }
    }
    try {
      if (records.length > 0) await append(records)
    } catch (error) {
      for (const request of judged) request.reject(error)
      // What was judged upon records that are not there is forgotten with them, whatever kept them out.
      if (!isTributaryError(error, 'disk_failed')) image = await replayLog(log, onDamage)
      return
    }
    for (const answer of answers) answer()
  }

  async function append(records: readonly MetadataRecord[]): Promise<void> {
    counters.commits++
    await log.append(recordsBatch(records, clock.nowMs()), { useReserve: true })
    if (log.sizeBytes() > Math.max(SNAPSHOT_FROM_BYTES, SNAPSHOT_AT_RATIO * snapshotBytes)) await beginAnew()
  }

  /** The snapshot is one append: whole or not at all. Half of one would hide what came before it. */
  async function beginAnew(): Promise<void> {
    const from = log.endOffset()
    const records: MetadataRecord[] = [{ type: 'snapshot' }, ...image.records()]
    const batches: Uint8Array[] = []
    for (let at = 0; at < records.length; at += RECORDS_PER_BATCH) {
      batches.push(recordsBatch(records.slice(at, at + RECORDS_PER_BATCH), clock.nowMs()))
    }
    const snapshot = concat(batches)
    snapshotBytes = snapshot.length
    try {
      await log.append(snapshot, { useReserve: true })
      await log.truncateBefore(from)
    } catch {
      // The disk or the journal has no room for it: the log stays as it is, only longer, until it has grown as much again.
      counters.snapshotFailures++
      snapshotBytes = log.sizeBytes()
    }
  }

  return {
    image: () => image,
    submit: rule => {
      if (failure !== null) return Promise.reject(failure)
      if (queue.length >= MAX_QUEUED_REQUESTS) {
        const message = `${MAX_QUEUED_REQUESTS} metadata requests wait for the disk; try again`
        return Promise.reject(new TributaryError('throttled', message))
      }
      return new Promise((resolve, reject) => {
        queue.push({
          judge: current => {
            const { records, response } = rule(current)
            return { records, resolve: () => resolve(response) }
          },
          reject,
        })
        if (!committing) void run()
      })
    },
    stats: () => ({ ...counters, logBytes: log.sizeBytes() }),
  }
}

function recordsBatch(records: readonly MetadataRecord[], timestampMs: number): Uint8Array {
  const encoded = records.map(record => ({
    key: null,
    value: encodeRecord(record),
    headers: [],
    timestampMs,
  }))
  return buildBatch(encoded)
}

async function replayLog(log: Log, onDamage: OnDamage): Promise<Image> {
  let image = emptyImage()
  const end = log.durableEndOffset()
  let offset = log.startOffset()
  while (offset < end) {
    const { batches, nextOffset, release } = await readPastDamage(log, offset, MIB, end, onDamage)
    for (const { at } of eachBatch(batches)) {
      for (const { value, offset: recordOffset } of decodePlain(batches, at)) {
        if (value === null || recordOffset < offset) continue
        const record = decodeRecord(value)
        // All that is known follows; what came before may be partly cut off.
        if (record.type === 'snapshot') image = emptyImage()
        else image.replay(record)
      }
    }
    release?.()
    if (nextOffset <= offset) break
    offset = nextOffset
  }
  return image
}
