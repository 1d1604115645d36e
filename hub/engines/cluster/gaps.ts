import type { Logger } from 'pino'
import { buildBatch } from '../../../common/batch-builder.ts'
import { utf8 } from '../../../common/bytes.ts'
import type { Clock } from '../../../common/env.ts'
import { messageOf } from '../../../common/errors.ts'
import type { Damage, StateLog } from '../../../common/log/types.ts'
import type { Topic } from '../../ports.ts'
import type { GapControl } from '../../replica/control.ts'
import type { Partition } from '../../replica/partition.ts'

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

/** Writes `_gaps`. Until its partition is open, notices are kept: recovery finds damage before. */
export interface GapWriter {
  open(partition: Partition): void
  /** In the commit of the current synchronous turn. */
  declared(topic: Topic, partition: number, offset: number, gap: GapControl): void
  /** Once per stretch, for ever: recovery finds the same again at each start. */
  damaged(topic: Topic, partition: number, damage: Damage): void
  /** Notices that could not be written; the control batches in their partitions stand. */
  failures(): number
}

/** A writer that remembers damage told of in `state`. */
export function createGapWriter(state: StateLog, clock: Clock, log: Logger): GapWriter {
  let target: Partition | null = null
  const early: GapNotice[] = []
  let failures = 0

  function write(notice: GapNotice): void {
    if (target === null) {
      early.push(notice)
      return
    }
    const key = notice.edge === null ? null : utf8(notice.edge)
    const value = utf8(JSON.stringify(notice))
    const batch = buildBatch([{ key, value, headers: [], timestampMs: notice.declaredMs }])
    target.appendOwn(batch).catch(error => {
      failures++
      log.error({ notice, reason: messageOf(error) }, 'a gap could not be written to _gaps')
    })
  }

  return {
    open: partition => {
      target = partition
      for (const notice of early.splice(0)) write(notice)
    },
    declared: (topic, partition, offset, gap) => {
      const { edge, lane, run, from, to, count, keys, reason, firstMs, lastMs } = gap
      const where = { topic: topic.name, topicId: topic.topicId, partition, offset }
      const declaredMs = Math.round(clock.nowMs())
      write({ ...where, edge, lane, run, from, to, count, keys, reason, firstMs, lastMs, declaredMs })
      // What an edge drops by its policy is as its operator wants it.
      if (keys === null)
        log.warn({ ...where, edge, lane, run, from, to, count, reason }, 'an edge declared a gap')
    },
    damaged: (topic, partition, damage) => {
      const { fromOffset: from, toOffset: to, segment, bytePosition, reason } = damage
      const key = `damage/${topic.topicId}/${partition}/${from}-${to}`
      if (state.get(key) !== undefined) return
      const where = { topic: topic.name, topicId: topic.topicId, partition, offset: from }
      log.error({ ...where, from, to, segment, bytePosition, why: reason }, 'records of the hub are damaged')
      const unknown = { edge: null, lane: null, run: null, keys: null, firstMs: null, lastMs: null }
      const declaredMs = Math.round(clock.nowMs())
      write({ ...where, ...unknown, from, to, count: to - from, reason: 'damage', declaredMs })
      state.put([{ key, value: utf8(String(declaredMs)) }]).catch(error => {
        log.error({ reason: messageOf(error) }, 'damage was told of and will be again at the next start')
      })
    },
    failures: () => failures,
  }
}
