import { eachBatch } from '../../../common/batch.ts'
import { decodePlain } from '../../../common/batch-records.ts'
import type { Clock } from '../../../common/env.ts'
import { isTributaryError, TributaryError } from '../../../common/errors.ts'
import { MIB } from '../../../common/limits.ts'
import type { DataDir, Log } from '../../../common/log/types.ts'
import type { Plan } from '../../controller/controller.ts'
import type { Image, ImageRecord } from '../../controller/image.ts'
import { emptyImage } from '../../controller/image.ts'
import type { MetadataRecord } from '../../controller/records.ts'
import { decodeRecords, encodeRecord, encodeRecords } from '../../controller/records.ts'
import { memberId } from '../../raft/types.ts'
import type { OnDamage } from '../../replica/log-access.ts'
import { readPastDamage, tellKnownDamage } from '../../replica/log-access.ts'
import { createSoleVoter } from './sole-voter.ts'

/**
 * The single node's shell around the controller: its records become entries of a consensus core that votes alone, its
 * responses leave after their commit. Requests that arrive while a commit is under way share the next one. The records
 * of one request are one entry, since entries are committed one by one.
 */

export const METADATA_LOG = '__cluster_metadata'
/** Requests waiting for their turn; beyond it they are refused as `throttled`. */
const MAX_QUEUED_REQUESTS = 100_000
/** Requests that share a commit. */
const MAX_GROUP_REQUESTS = 1_000
/** The log begins anew with a snapshot when it is larger than this and than so many times the last snapshot. */
const SNAPSHOT_FROM_BYTES = 8 * MIB
const SNAPSHOT_AT_RATIO = 4
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

/**
 * Opens the metadata log and replays it, passing over damage. `nodeId` is this node's. Rejects with
 * `directory_newer_format`, `corrupt_log`.
 */
export async function openMetadata(
  dataDir: DataDir,
  clock: Clock,
  onDamage: OnDamage,
  nodeId = 1,
): Promise<Metadata> {
  const log = await dataDir.openLog(METADATA_LOG, LOG_OPTIONS)
  tellKnownDamage(log, onDamage)
  const replayed = await replayLog(log, onDamage)
  let image = replayed.image
  const voter = createSoleVoter(log, clock, memberId(nodeId, dataDir.directoryId), replayed.term)
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
    const entries: Uint8Array[] = []
    const answers: (() => void)[] = []
    const judged: Request[] = []
    for (const request of group) {
      counters.requests++
      try {
        const plan = request.judge(image)
        for (const record of plan.records) image.replay(record)
        if (plan.records.length > 0) entries.push(encodeRecords(plan.records))
        answers.push(plan.resolve)
        judged.push(request)
      } catch (error) {
        request.reject(error)
      }
    }
    try {
      if (entries.length > 0) await append(entries)
    } catch (error) {
      for (const request of judged) request.reject(error)
      // What was judged upon records that are not there is forgotten with them, whatever kept them out.
      if (!isTributaryError(error, 'disk_failed')) image = (await replayLog(log, onDamage)).image
      return
    }
    for (const answer of answers) answer()
  }

  async function append(entries: readonly Uint8Array[]): Promise<void> {
    counters.commits++
    await voter.commit(entries)
    if (log.sizeBytes() > Math.max(SNAPSHOT_FROM_BYTES, SNAPSHOT_AT_RATIO * snapshotBytes)) await beginAnew()
  }

  /** The snapshot is one append: whole or not at all. Half of one would hide what came before it. */
  async function beginAnew(): Promise<void> {
    const from = log.endOffset()
    const records: MetadataRecord[] = [{ type: 'snapshot' }, ...image.records()]
    const entries = records.map(encodeRecord)
    snapshotBytes = entries.reduce((total, entry) => total + entry.length, 0)
    try {
      await voter.commit(entries)
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

/** The image of all that is durable, and the newest term in it. */
async function replayLog(log: Log, onDamage: OnDamage): Promise<{ image: Image; term: number }> {
  let image = emptyImage()
  let term = 0
  const end = log.durableEndOffset()
  let offset = log.startOffset()
  while (offset < end) {
    const { batches, nextOffset, release } = await readPastDamage(log, offset, MIB, end, onDamage)
    for (const { at, header } of eachBatch(batches)) {
      term = Math.max(term, header.leaderEpoch)
      for (const { value, offset: recordOffset } of decodePlain(batches, at)) {
        // A leader's first entry has no value.
        if (value === null || recordOffset < offset) continue
        for (const record of decodeRecords(value)) {
          // All that is known follows; what came before may be partly cut off.
          if (record.type === 'snapshot') image = emptyImage()
          else image.replay(record)
        }
      }
    }
    release?.()
    if (nextOffset <= offset) break
    offset = nextOffset
  }
  return { image, term }
}
