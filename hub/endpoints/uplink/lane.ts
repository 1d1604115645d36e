import { readHeader } from '../../../common/batch.ts'
import type { TributaryError } from '../../../common/errors.ts'
import { isTributaryError } from '../../../common/errors.ts'
import { toTributaryError } from '../../../common/session.ts'
import type {
  AppendFrame,
  GapFrame,
  LaneTip,
  OpenFrame,
  RefusedFrame,
  RunFrame,
  UplinkHubFrame,
} from '../../../common/wire.ts'
import type { LaneKey, Ports } from '../../ports.ts'
import type { BlockedAt } from './lane-gate.ts'
import { createLaneGate } from './lane-gate.ts'

export type LaneFrame = OpenFrame | RunFrame | GapFrame | AppendFrame

/** What a lane asks of its connection. */
export interface LaneHost {
  ports: Ports
  edgeId: string
  maxFrameBytes: number
  send(frame: UplinkHubFrame): void
  /** A frame of this cost is done with. */
  release(costBytes: number): void
  /** The lane's tip moved: call `ack` soon. */
  moved(lane: Lane): void
  /** A frame was refused; the host may throttle the edge or end the connection. */
  refused(error: TributaryError): void
}

/** One log of an uplink connection: its frames take effect strictly in order, appends pipelined. */
export interface Lane {
  push(frame: LaneFrame): void
  /** Sends the tip if it moved since the last time. */
  ack(): void
  /** Drops what waits; what the engine already has runs on. */
  stop(): void
}

/** Room in a frame for everything but the batches. */
const FRAME_ROOM_BYTES = 1_024
/** Counted on top of each frame's bytes, for what the queue and the engine keep beside them. */
const FRAME_COST_BYTES = 512

/** What a frame counts towards the connection's bound of bytes in flight. */
export function frameCost(frame: LaneFrame): number {
  return FRAME_COST_BYTES + (frame.t === 'append' ? frame.batches.length : 0)
}

export function createLane(host: LaneHost, handle: number): Lane {
  const { logs } = host.ports
  const gate = createLaneGate()
  const queue: LaneFrame[] = []
  let key: LaneKey | null = null
  /** As the leader last said. */
  let tip: LaneTip | null = null
  let acked: LaneTip | null = null
  let appending = 0
  /** Calls of the engine so far, and the last one whose answer came. */
  let calls = 0
  let answered = 0
  let barrier = false
  let stopped = false

  const lane: Lane = {
    push: frame => {
      queue.push(frame)
      pump()
    },
    ack: () => {
      if (stopped || tip === null) return
      acked = tip
      const { run, next, committed } = tip
      host.send({ t: 'ack', log: handle, run, next, committed })
    },
    stop: () => {
      stopped = true
      for (const frame of queue.splice(0)) host.release(frameCost(frame))
    },
  }

  /** Starts what may start: appends one behind the other, everything else alone. */
  function pump(): void {
    while (!barrier) {
      const frame = queue[0]
      if (frame === undefined || (frame.t !== 'append' && appending > 0)) return
      queue.shift()
      if (frame.t === 'append') startAppend(frame)
      else startAlone(frame)
    }
  }

  function startAppend(frame: AppendFrame): void {
    const cost = frameCost(frame)
    const target = key
    if (target === null || !admitsAppend(frame)) {
      host.release(cost)
      return
    }
    const generation = gate.generation()
    appending++
    void settle(
      () => logs.appendLane(target, frame.batches),
      generation,
      () => {
        appending--
        host.release(cost)
      },
    )
  }

  function admitsAppend(frame: AppendFrame): boolean {
    if (!gate.isBlocked()) return true
    try {
      const { producerId, baseSequence } = readHeader(frame.batches, 0)
      return gate.admitsAppend(producerId, baseSequence)
    } catch (error) {
      if (isTributaryError(error)) return false
      throw error
    }
  }

  function startAlone(frame: OpenFrame | RunFrame | GapFrame): void {
    const call = callOf(frame)
    const cost = frameCost(frame)
    if (call === null) {
      host.release(cost)
      return
    }
    barrier = true
    // An ack names the tip's run alone: what is committed of the one before is said before the next takes its place.
    if (frame.t === 'run') ackMoved()
    void settle(call, gate.generation(), () => {
      barrier = false
      host.release(cost)
    })
  }

  /** The engine call of a frame; null where the frame is dropped. */
  function callOf(frame: OpenFrame | RunFrame | GapFrame): (() => Promise<LaneTip | null>) | null {
    if (frame.t === 'open') {
      gate.open()
      return () => bind(frame)
    }
    const target = key
    if (target === null) return null
    if (frame.t === 'run') {
      const { run, prev, reason } = frame
      return gate.admitsRun(frame) ? () => logs.startRun(target, { run, prev, reason }) : null
    }
    const { t: _t, log: _log, ...gap } = frame
    return gate.admitsGap(frame) ? () => logs.declareGap(target, gap) : null
  }

  /** Runs an engine call to its end, whatever that is. */
  async function settle(
    call: () => Promise<LaneTip | null>,
    generation: number,
    done: () => void,
  ): Promise<void> {
    const number = ++calls
    try {
      const told = await call()
      // Answers to pipelined appends may overtake one another: what an earlier one tells is older.
      if (told !== null && number > answered) {
        answered = number
        tip = told
        host.moved(lane)
      }
    } catch (error) {
      refuse(generation, toTributaryError(error))
    }
    done()
    if (!stopped) pump()
  }

  async function bind(frame: OpenFrame): Promise<null> {
    key = null
    tip = null
    const { topic: name, topicId, lane: laneNumber, lanes, partitionBy } = frame
    const { edgeId } = host
    const bound = await host.ports.fleet.bindLane({
      edgeId,
      topic: name,
      topicId,
      lane: laneNumber,
      lanes,
      partitionBy,
    })
    const { topic, partition } = bound
    const target = { edgeId, topicId: topic.topicId, partition, lane: laneNumber }
    const { tip: found, leaderEpoch } = await logs.openLane(target)
    key = target
    tip = found
    acked = found
    if (stopped) return null
    host.send({
      t: 'opened',
      log: handle,
      topicId: topic.topicId,
      partition,
      leaderEpoch,
      maxRecordBytes: topic.config.maxRecordBytes,
      maxBatchBytes: host.maxFrameBytes - FRAME_ROOM_BYTES,
      tip: found,
    })
    return null
  }

  function ackMoved(): void {
    if (tip !== null && differs(tip, acked)) lane.ack()
  }

  /** Where the lane goes on after a failure: as the leader said with it, else as it stands here; null where neither is known. */
  function placeAfter(error: TributaryError): BlockedAt {
    const here = tipHere()
    const { run = here?.run ?? tip?.run, next = here?.next } = numbers(error.details)
    return run === undefined || next === undefined ? null : { run, next }
  }

  function tipHere(): LaneTip | null {
    try {
      return key === null ? null : logs.tip(key)
    } catch (error) {
      // The topic went away meanwhile, or its leader did.
      if (isTributaryError(error)) return null
      throw error
    }
  }

  function refuse(generation: number, error: TributaryError): void {
    const at = placeAfter(error)
    const { sequence } = numbers(error.details)
    if (!gate.refuse(generation, at) || stopped) return
    // What was acked before the failure goes first, so that the edge never sees `next` move back.
    ackMoved()
    if (tip !== null && at?.run === tip.run) tip = { ...tip, next: at.next }
    const frame: RefusedFrame = { t: 'refused', log: handle, code: error.code, message: error.message }
    host.send({ ...frame, ...at, ...(sequence === undefined ? {} : { sequence }) })
    host.refused(error)
  }

  return lane
}

function differs(tip: LaneTip, acked: LaneTip | null): boolean {
  return (
    acked === null || tip.run !== acked.run || tip.next !== acked.next || tip.committed !== acked.committed
  )
}

function numbers(details: Readonly<Record<string, unknown>>): {
  run?: number
  next?: number
  sequence?: number
} {
  const { run, next, sequence } = details
  return {
    ...(typeof run === 'number' ? { run } : {}),
    ...(typeof next === 'number' ? { next } : {}),
    ...(typeof sequence === 'number' ? { sequence } : {}),
  }
}
