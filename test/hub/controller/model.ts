import { expect } from 'vitest'
import { must } from '../../../common/assert.ts'
import { TributaryError } from '../../../common/errors.ts'
import type { ControllerSettings } from '../../../hub/controller/controller.ts'
import { evaluate } from '../../../hub/controller/evaluate.ts'
import type { Image, ImageRecord } from '../../../hub/controller/image.ts'
import { emptyImage } from '../../../hub/controller/image.ts'
import { fenceNodes, unfenceNodes } from '../../../hub/controller/nodes.ts'
import type { CallName, CallRequest, CallResponse, ChangeIsr } from '../../../hub/controller/requests.ts'
import { tidy } from '../../../hub/controller/tidy.ts'
import type { PartitionState } from '../../../hub/controller/types.ts'
import { requiredInSyncOf } from '../../../hub/controller/types.ts'
import { checkEntry, checkImage } from './invariants.ts'
import { registration, SETTINGS } from './stage.ts'

/**
 * A cluster as the controller sees it, with what it can't see: processes, each with a directory and a view of the metadata that
 * may be old, and how much of each partition's committed records each directory holds. Leaders commit upon their own view. Whoever is
 * elected must hold what was committed, unless somebody chose to lose it.
 */

const PROPERTY_SETTINGS: ControllerSettings = { ...SETTINGS, maxPartitions: 40, defaultPartitions: 2 }
const MAX_PROCESSES = 12
const MAX_PROPOSALS = 12
const NODES = 5

interface Process {
  readonly nodeId: number
  readonly directoryId: string
  incarnation: number
  readonly view: Image
  applied: number
  /** Proposed and not resolved, by partition. */
  readonly pending: Map<string, { epoch: number; isr: readonly number[] }>
}

/** The committed records of a partition are counted, not kept: whoever holds the newest holds all. */
interface Data {
  committed: number
  /** By directory. */
  held: Map<string, number>
  /** The only replica lost its directory: nobody has them, and nobody is to blame. */
  gone: boolean
  /** Epoch of the last leader that was chosen although it may lack records: what an older one goes on to commit is lost by that choice. */
  fromEpoch: number
}

function keyOf({ topicId, partition }: { topicId: string; partition: number }): string {
  return `${topicId}/${partition}`
}

export function createModel() {
  const image = emptyImage()
  const log: (readonly ImageRecord[])[] = []
  const data = new Map<string, Data>()
  const counts = { commits: 0, elections: 0, unclean: 0, isrChanges: 0, stale: 0, refused: 0, refusals: 0 }
  const accepted = new Set<string>()
  let processes: Process[] = []
  let proposals: { from: Process; request: ChangeIsr }[] = []
  let nowMs = 1_000_000
  let made = 0

  function dataOf(state: { topicId: string; partition: number }): Data {
    const key = keyOf(state)
    const known = data.get(key)
    if (known !== undefined) return known
    const fresh = { committed: 0, held: new Map<string, number>(), gone: false, fromEpoch: 0 }
    data.set(key, fresh)
    return fresh
  }

  function commit(records: readonly ImageRecord[]): void {
    if (records.length === 0) return
    checkEntry(image, records)
    for (const record of records) {
      if (record.type === 'node_registered') loseAlone(record.nodeId, record.directoryId)
      const before =
        record.type === 'partition_changed' ? image.partition(record.topicId, record.partition) : undefined
      image.replay(record)
      if (record.type === 'partition_changed') noteElection(before, record)
    }
    log.push(records)
    checkImage(image)
    for (const state of image.partitionStates()) checkData(state)
  }

  function loseAlone(nodeId: number, directoryId: string): void {
    if (image.node(nodeId)?.directoryId === directoryId) return
    for (const state of image.partitionsOn(nodeId)) {
      if (state.replicas.length === 1) dataOf(state).gone = true
    }
  }

  /** What the leader has is what there is from now on, where that is less by somebody's choice. */
  function noteElection(
    was: PartitionState | undefined,
    record: PartitionState & { unclean: boolean },
  ): void {
    if (record.leader === null || was?.leaderEpoch === record.leaderEpoch) return
    counts.elections++
    if (record.unclean) counts.unclean++
    const partition = dataOf(record)
    if (!record.unclean && !partition.gone) return
    const directory = must(image.node(record.leader), 'a leader that is not registered').directoryId
    partition.committed = partition.held.get(directory) ?? 0
    partition.gone = false
    partition.fromEpoch = record.leaderEpoch
  }

  /** Whoever is in sync has all that was committed: any of them may be elected. */
  function checkData(state: PartitionState): void {
    const { committed, held, gone } = dataOf(state)
    if (gone) return
    for (const nodeId of state.isr) {
      const directory = must(image.node(nodeId), 'a stranger in sync').directoryId
      const has = held.get(directory) ?? 0
      expect(has, `node ${nodeId} is in sync in ${keyOf(state)} without ${committed} records`).toBe(committed)
    }
  }

  function call<Name extends CallName>(name: Name, request: CallRequest<Name>): CallResponse<Name> | null {
    const freshTopicId = (++made).toString(16).padStart(32, '0')
    try {
      const context = { nowMs, freshTopicId, controllerId: 1 }
      const { records, response } = evaluate(image, PROPERTY_SETTINGS, name, request, context)
      commit(records)
      return response
    } catch (error) {
      if (!(error instanceof TributaryError)) throw error
      counts.refusals++
      return null
    }
  }

  function catchUp(process: Process, entries: number): void {
    const until = Math.min(log.length, process.applied + entries)
    for (; process.applied < until; process.applied++) {
      for (const record of log[process.applied] ?? []) process.view.replay(record)
    }
    for (const [key, { epoch }] of process.pending) {
      const [topicId = '', partition] = key.split('/')
      const state = process.view.partition(topicId, Number(partition))
      if (state === undefined || state.partitionEpoch > epoch) process.pending.delete(key)
    }
  }

  /** A process starts with a directory and registers; where it is refused it goes on trying elsewhere. */
  function start(nodeId: number, directoryId: string, lostData: boolean): void {
    if (processes.length >= MAX_PROCESSES) return
    if (lostData) loseData(nodeId, directoryId)
    const response = call('register-node', registration(nodeId, { directoryId, lostData }))
    if (response === null) return
    // One process has a directory at a time, by its lock.
    processes = processes.filter(process => process.directoryId !== directoryId)
    const { incarnation } = response
    processes.push({ nodeId, directoryId, incarnation, view: emptyImage(), applied: 0, pending: new Map() })
  }

  /** The directory is as it was, without what this node had committed in it. */
  function loseData(nodeId: number, directoryId: string): void {
    if (image.node(nodeId)?.directoryId !== directoryId) return
    for (const partition of data.values()) partition.held.delete(directoryId)
    for (const state of image.partitionsOn(nodeId)) {
      if (state.replicas.length === 1) dataOf(state).gone = true
    }
  }

  function currentOf(nodeId: number): Process | undefined {
    const incarnation = image.node(nodeId)?.incarnation
    return processes.find(process => process.nodeId === nodeId && process.incarnation === incarnation)
  }

  /** The state that the process leads by, in its own view. */
  function ledBy(process: Process, state: PartitionState | undefined): PartitionState | undefined {
    if (state?.leader !== process.nodeId || state.leaderIncarnation !== process.incarnation) return undefined
    return state
  }

  /** With a process that leads a partition in its own view. */
  function withLeader(at: number, act: (process: Process, state: PartitionState) => void): void {
    const led = processes.flatMap(process =>
      [...process.view.partitionsOn(process.nodeId)].flatMap(state => {
        return ledBy(process, state) === undefined ? [] : [{ process, state }]
      }),
    )
    const chosen = led[at % Math.max(1, led.length)]
    if (chosen !== undefined) act(chosen.process, chosen.state)
  }

  /**
   * The process of the node that follows the leader, of the incarnation that the leader knows of: what another one has is in another
   * directory, or may be gone.
   */
  function followerOf(leader: Process, state: PartitionState, nodeId: number): Process | undefined {
    const incarnation = leader.view.node(nodeId)?.incarnation
    return processes.find(process => {
      const own = process.view.partition(state.topicId, state.partition)
      const follows = own?.leaderEpoch === state.leaderEpoch && own.leader === state.leader
      return process.nodeId === nodeId && process.incarnation === incarnation && follows
    })
  }

  /** The leader commits a record if all that it counts on take it. */
  function commitRecord(process: Process, state: PartitionState): void {
    const topic = process.view.topicById(state.topicId)
    const required = requiredInSyncOf(topic?.config.minInsyncReplicas ?? null, state)
    if (state.isr.length < required) return
    const members = new Set([...state.isr, ...(process.pending.get(keyOf(state))?.isr ?? [])])
    const directories = [process.directoryId]
    for (const nodeId of members) {
      const follower = nodeId === process.nodeId ? process : followerOf(process, state, nodeId)
      if (follower === undefined) return
      directories.push(follower.directoryId)
    }
    const partition = dataOf(state)
    if (state.leaderEpoch < partition.fromEpoch) return
    partition.committed++
    counts.commits++
    for (const directory of directories) partition.held.set(directory, partition.committed)
    const now = image.partition(state.topicId, state.partition)
    if (now !== undefined) checkData(now)
  }

  /** The leader proposes those of `mask` that follow it, once they have what it has, and those still in sync that `mask` has. */
  function propose(process: Process, state: PartitionState, mask: number): void {
    if (process.pending.has(keyOf(state)) || proposals.length >= MAX_PROPOSALS) return
    const { held } = dataOf(state)
    const isr: { nodeId: number; incarnation: number }[] = []
    for (const nodeId of state.replicas) {
      const self = nodeId === process.nodeId
      if (!self && ((mask >> nodeId) & 1) === 0) continue
      const follower = self ? process : followerOf(process, state, nodeId)
      if (follower === undefined) continue
      held.set(follower.directoryId, held.get(process.directoryId) ?? 0)
      isr.push({ nodeId, incarnation: follower.incarnation })
    }
    const { topicId, partition, leaderEpoch, partitionEpoch } = state
    const members = isr.map(member => member.nodeId)
    process.pending.set(keyOf(state), { epoch: partitionEpoch, isr: members })
    const { nodeId, incarnation } = process
    const changes = [{ topicId, partition, leaderEpoch, partitionEpoch, isr }]
    proposals.push({ from: process, request: { nodeId, incarnation, changes } })
  }

  /** It may be delivered again, unless it is the last time. */
  function deliver(index: number, last: boolean): void {
    const proposal = proposals[index]
    if (proposal === undefined) return
    if (last) proposals.splice(index, 1)
    const response = call('change-isr', proposal.request)
    for (const { outcome, ...ref } of response?.results ?? []) {
      if (outcome === 'ok') {
        counts.isrChanges++
        const upon = `${keyOf(ref)}@${proposal.request.changes[0]?.partitionEpoch}`
        expect(accepted, 'two changes upon the same state').not.toContain(upon)
        accepted.add(upon)
      } else {
        counts[outcome]++
        if (outcome === 'refused') proposal.from.pending.delete(keyOf(ref))
      }
    }
  }

  function tidyOnce(): number {
    const records = tidy(image, PROPERTY_SETTINGS, nowMs)
    commit(records)
    return records.length
  }

  return {
    image,
    counts,
    settings: PROPERTY_SETTINGS,
    log,
    call,
    processes: () => processes,
    proposals: () => proposals.length,
    pass: (ms: number): void => {
      nowMs += ms
    },
    catchUp,
    kill: (index: number): void => {
      processes = processes.filter((_, at) => at !== index)
    },
    restart: (nodeId: number, how: number): void => {
      const known = image.node(nodeId)?.directoryId ?? `d${nodeId}`
      start(nodeId, how === 3 ? `d${nodeId}-${++made}` : known, how === 2)
    },
    fence: (mask: number): void => {
      const nodeIds = Array.from({ length: NODES }, (_, index) => index + 1)
      commit(
        fenceNodes(
          image,
          nodeIds.filter(nodeId => ((mask >> nodeId) & 1) === 1),
          nowMs,
        ),
      )
    },
    unfence: (nodeId: number): void => {
      const process = currentOf(nodeId)
      if (process === undefined) return
      catchUp(process, log.length)
      commit(unfenceNodes(image, [nodeId], nowMs))
    },
    leave: (index: number): void => {
      const process = processes[index]
      if (process === undefined) return
      const { nodeId, incarnation } = process
      call('leave', { nodeId, incarnation })
      processes = processes.filter(other => other !== process)
    },
    write: (at: number): void => withLeader(at, commitRecord),
    propose: (at: number, mask: number): void =>
      withLeader(at, (process, state) => propose(process, state, mask)),
    deliver,
    tidyOnce,
    /** All nodes come back, everything is delivered and done; answers with the rounds that took. */
    heal: (): number => {
      // A process that learns of another one in its place stops.
      processes = processes.filter(process => currentOf(process.nodeId) === process)
      for (const { nodeId, directoryId, left } of image.nodes()) {
        if (left || currentOf(nodeId) === undefined) start(nodeId, directoryId, false)
      }
      proposals = []
      for (const process of processes) process.pending.clear()
      for (let round = 1; round <= 200; round++) {
        nowMs += 30_000
        const entries = log.length
        for (const { nodeId } of image.nodes()) {
          const process = must(currentOf(nodeId), `no process of node ${nodeId}`)
          catchUp(process, log.length)
          commit(unfenceNodes(image, [nodeId], nowMs))
        }
        for (const process of processes) catchUp(process, log.length)
        for (const process of processes) {
          for (const state of process.view.partitionsOn(process.nodeId)) {
            if (ledBy(process, state) === undefined || state.isr.length === state.replicas.length) continue
            propose(process, state, -1)
            deliver(proposals.length - 1, true)
          }
        }
        tidyOnce()
        // Leaders go back to where they belong only after a while.
        if (log.length === entries && round > 4) return round
      }
      throw new Error('the cluster does not settle down')
    },
  }
}

export type Model = ReturnType<typeof createModel>
