import { must } from '../../../common/assert.ts'
import { isTributaryError } from '../../../common/errors.ts'
import type { ControllerSettings } from '../../../hub/controller/controller.ts'
import { evaluate } from '../../../hub/controller/evaluate.ts'
import type { Image, ImageRecord } from '../../../hub/controller/image.ts'
import { emptyImage } from '../../../hub/controller/image.ts'
import { fenceNodes, unfenceNodes } from '../../../hub/controller/nodes.ts'
import type { CallName, CallRequest, CallResponse, RegisterNode } from '../../../hub/controller/requests.ts'
import { tidy } from '../../../hub/controller/tidy.ts'
import type { PartitionState } from '../../../hub/controller/types.ts'

/** A controller over one image: requests are judged and replayed at once, nodes are whatever the test says they are. */

export const SETTINGS: ControllerSettings = {
  autoCreateTopics: true,
  defaultPartitions: 4,
  maxTopics: 1_000,
  maxPartitions: 200_000,
  maxEdges: 10,
  defaultReplication: 3,
  maxRecordBytesCeiling: 8 * 1024 * 1024,
  topicDefaults: {
    retentionMs: null,
    retentionBytes: null,
    segmentBytes: 1024 * 1024,
    maxRecordBytes: 1024 * 1024,
    minInsyncReplicas: null,
    uncleanLeaderElection: false,
  },
}

export function registration(nodeId: number, more: Partial<RegisterNode> = {}): RegisterNode {
  const addresses = { peerAddress: `n${nodeId}:7700`, httpAddress: `n${nodeId}:7600` }
  const given = {
    nodeId,
    directoryId: `d${nodeId}`,
    rack: null,
    software: 's',
    startId: null,
    lostData: false,
  }
  return { ...addresses, ...given, ...more }
}

export interface Stage {
  image: Image
  nowMs(): number
  pass(ms: number): void
  commit(records: readonly ImageRecord[]): void
  call<Name extends CallName>(name: Name, request: CallRequest<Name>): CallResponse<Name>
  /** Registers and makes live. */
  start(nodeId: number, more?: Partial<RegisterNode>): number
  fence(...nodeIds: number[]): void
  unfence(...nodeIds: number[]): void
  /** The partition of the topic with this name. */
  at(name: string, partition?: number): PartitionState
  /** The leader proposes these as in sync, upon the image. */
  propose(name: string, isr: readonly number[], partition?: number): string
  /** Replicas catch up wherever they can, and all is done that the controller does unasked; answers with how often that took. */
  settleDown(): number
}

export function createStage(settings = SETTINGS): Stage {
  const image = emptyImage()
  let nowMs = 1_000_000
  let topicIds = 0

  function commit(records: readonly ImageRecord[]): void {
    for (const record of records) image.replay(record)
  }

  function call<Name extends CallName>(name: Name, request: CallRequest<Name>): CallResponse<Name> {
    const freshTopicId = (++topicIds).toString(16).padStart(32, '0')
    const plan = evaluate(image, settings, name, request, { nowMs, freshTopicId, controllerId: 1 })
    commit(plan.records)
    return plan.response
  }

  function at(name: string, partition = 0): PartitionState {
    const { topicId } = must(image.topicByName(name), `no topic ${name}`)
    return must(image.partition(topicId, partition), `no place for ${name}-${partition}`)
  }

  function proposal(state: PartitionState, isr: readonly number[]): CallRequest<'change-isr'> {
    const incarnation = (nodeId: number): number => image.node(nodeId)?.incarnation ?? 0
    const { topicId, partition, leaderEpoch, partitionEpoch } = state
    const members = isr.map(nodeId => ({ nodeId, incarnation: incarnation(nodeId) }))
    const nodeId = state.leader ?? 0
    const changes = [{ topicId, partition, leaderEpoch, partitionEpoch, isr: members }]
    return { nodeId, incarnation: incarnation(nodeId), changes }
  }

  function catchUp(): boolean {
    let changed = false
    for (const state of [...image.partitionStates()]) {
      const live = state.replicas.filter(nodeId => image.node(nodeId)?.fenced === false)
      if (state.leader === null || live.length === state.isr.length) continue
      call('change-isr', proposal(state, live))
      changed = true
    }
    return changed
  }

  return {
    image,
    nowMs: () => nowMs,
    pass: ms => {
      nowMs += ms
    },
    commit,
    call,
    start: (nodeId, more = {}) => {
      const { incarnation } = call('register-node', registration(nodeId, more))
      commit(unfenceNodes(image, [nodeId], nowMs))
      return incarnation
    },
    fence: (...nodeIds) => commit(fenceNodes(image, nodeIds, nowMs)),
    unfence: (...nodeIds) => commit(unfenceNodes(image, nodeIds, nowMs)),
    at,
    propose: (name, isr, partition = 0) => {
      const { results } = call('change-isr', proposal(at(name, partition), isr))
      return must(results[0], 'no result').outcome
    },
    settleDown: () => {
      for (let round = 0; round < 1_000; round++) {
        const moved = catchUp()
        const records = tidy(image, settings, nowMs)
        if (!moved && records.length === 0) return round
        commit(records)
      }
      throw new Error('the cluster does not settle down')
    },
  }
}

/** The code of the error that `action` throws; 'none' where it throws none. */
export function codeOf(action: () => unknown): string {
  try {
    action()
  } catch (error) {
    if (isTributaryError(error)) return error.code
    throw error
  }
  return 'none'
}
