import type { Logger } from 'pino'
import type { Env, Timer } from '../../../common/env.ts'
import { messageOf } from '../../../common/errors.ts'
import { MINUTE_MS, SECOND_MS } from '../../../common/limits.ts'
import type { NodeHeartbeat } from '../../../common/wire-peer.ts'
import type { ControllerSettings } from '../../controller/controller.ts'
import { ensureInternalTopics } from '../../controller/controller.ts'
import type { Image, ImageRecord } from '../../controller/image.ts'
import { foundingRecord } from '../../controller/image.ts'
import type { Liveness, LivenessSettings } from '../../controller/liveness.ts'
import { createLiveness } from '../../controller/liveness.ts'
import { fenceNodes, unfenceNodes } from '../../controller/nodes.ts'
import { isOpen } from '../../controller/places.ts'
import { tidy } from '../../controller/tidy.ts'
import { nodeIdOf } from '../../raft/types.ts'
import { freshTopicId } from './fleet.ts'
import type { QuorumMetadata } from './metadata.ts'
import type { VotersStep } from './quorum/voters.ts'
import { nextStep } from './quorum/voters.ts'

/**
 * What the active controller does unasked, in rounds: it says who is alive, brings partitions to where they should be, gives seats in the
 * quorum to those who should have them.
 */

/** Between two rounds that nothing calls for, in a cluster of one. */
const IDLE_ROUND_MS = SECOND_MS
/** Between two rounds while a node that nothing listens for is not fenced yet. */
const HURRIED_ROUND_MS = 25
/** Plans of `tidy` committed in one round. */
const MAX_TIDY_A_ROUND = 20
/** A voter that is silent for so long gives its vote to another node, where there is one. */
const VOTER_GONE_MS = MINUTE_MS

export interface Duties {
  /** A node tells that it lives. */
  heard(beat: Omit<NodeHeartbeat, 't'>): void
  /** Nothing listens where the node was; `back`: it answers again. */
  refused(nodeId: number): void
  back(nodeId: number): void
  /** Something may have to be done. */
  kick(): void
  /** Resolves when the round under way is over. */
  stop(): Promise<void>
}

export interface DutiesContext {
  env: Pick<Env, 'clock' | 'rng'>
  log: Logger
  nodeId: number
  /** The incarnation of this process, null while it does not live as a node. */
  livingAs(): number | null
  /** It can't commit anything, and judges nobody; see disk-watch.ts. */
  isAside(): boolean
  clusterId: string
  settings: ControllerSettings
  times: LivenessSettings
  metadata: QuorumMetadata
}

/** Does nothing before this node is the active controller. */
export function createDuties(context: DutiesContext): Duties {
  const { env, log, nodeId, settings, times, metadata } = context
  const { clock } = env
  const refused = new Set<number>()
  let reign: { readonly term: number; readonly liveness: Liveness } | null = null
  let former: { readonly nodeId: number; readonly atMs: number } | null = null
  let timer: Timer | null = null
  let running: Promise<void> | null = null
  let again = false
  let stopped = false

  function controllerChanged(): void {
    const term = metadata.activeTerm()
    if (term === reign?.term) return
    reign = null
    if (term === null) return
    const nowMs = clock.monotonicMs()
    const silentSince = new Map(former === null ? [] : [[former.nodeId, former.atMs]])
    const liveness = createLiveness(times, nowMs, silentSince)
    for (const gone of refused) liveness.refused(gone, nowMs)
    reign = { term, liveness }
    log.info({ term }, 'this node is the active controller')
    kick()
  }

  function kick(): void {
    if (stopped || reign === null) return
    if (running !== null) {
      again = true
      return
    }
    timer?.cancel()
    timer = null
    running = round()
      .catch(error => {
        log.warn({ reason: messageOf(error) }, 'a round of the controller failed; it is tried again')
      })
      .finally(() => {
        running = null
        if (again) {
          again = false
          clock.soon(kick)
        } else schedule()
      })
  }

  function schedule(): void {
    if (stopped || reign === null || timer !== null) return
    timer = clock.setTimer(() => {
      timer = null
      kick()
    }, waitMs())
  }

  function waitMs(): number {
    const image = metadata.image()
    const nodes = image.nodes()
    if (nodes.some(node => !node.fenced && refused.has(node.nodeId))) return HURRIED_ROUND_MS
    return nodes.length > 1 ? times.heartbeatMs : IDLE_ROUND_MS
  }

  async function round(): Promise<void> {
    if (context.isAside()) return
    await found()
    await judge()
    for (let plans = 0; plans < MAX_TIDY_A_ROUND; plans++) {
      if ((await commit(image => tidy(image, settings, wallMs()))) === 0) break
    }
    giveSeats()
  }

  const wallMs = (): number => Math.round(clock.nowMs())

  /** Commits what a rule gives; resolves with the number of records. */
  async function commit(rule: (image: Image) => ImageRecord[]): Promise<number> {
    // What is on its way may need more, and is looked at when it is there: to find nothing must cost no entry.
    if (stopped || reign === null || rule(metadata.image()).length === 0) return 0
    const judged = await metadata.propose(image => {
      const records = rule(image)
      return { records, response: records.length }
    })
    return judged.t === 'done' ? judged.response : 0
  }

  /** The cluster's id comes first, its own topics when there is a node for them. */
  async function found(): Promise<void> {
    const image = metadata.image()
    if (image.clusterId() === null) {
      await commit(now => (now.clusterId() === null ? [foundingRecord(context.clusterId, wallMs())] : []))
    }
    if (!image.nodes().some(isOpen)) return
    const topicIds = [freshTopicId(env), freshTopicId(env)] as const
    if (ensureInternalTopics(image, settings, topicIds, wallMs()).records.length === 0) return
    await commit(now => ensureInternalTopics(now, settings, topicIds, wallMs()).records)
  }

  async function judge(): Promise<void> {
    if (reign === null) return
    const { liveness } = reign
    const nowMs = clock.monotonicMs()
    const image = metadata.image()
    const incarnation = context.livingAs()
    const appliedIndex = metadata.appliedIndex()
    if (incarnation !== null) liveness.heard({ nodeId, incarnation, appliedIndex }, appliedIndex, nowMs)
    const { fence, unfence } = liveness.judge(image, nowMs)
    if (fence.length > 0) log.warn({ nodes: fence }, 'nodes are silent and lead nothing any more')
    if (unfence.length > 0) log.info({ nodes: unfence }, 'nodes are alive')
    // One behind the other without waiting: the first may be what others wait for.
    const fenced = fence.length === 0 ? null : commit(now => fenceNodes(now, fence, wallMs()))
    const unfenced = unfence.length === 0 ? null : commit(now => unfenceNodes(now, unfence, wallMs()))
    await fenced
    await unfenced
  }

  function giveSeats(): void {
    if (stopped || reign === null) return
    const image = metadata.image()
    const self = metadata.seat()
    const step = nextStep({
      config: metadata.status().config,
      self,
      nodes: image.nodes(),
      hasLog: member => metadata.hasLog(member),
      isLongGone: gone => {
        const node = image.node(gone)
        return node?.fenced === true && wallMs() - node.changedMs > VOTER_GONE_MS
      },
    })
    if (step !== null) take(step)
  }

  function take(step: VotersStep): void {
    const outcome = step.t === 'transfer' ? metadata.transfer(step.to) : metadata.change(step)
    if (!outcome?.taken) return
    const member = step.t === 'transfer' ? step.to : step.member
    log.info({ step: step.t, node: nodeIdOf(member) }, 'the quorum changes')
  }

  metadata.onController(() => {
    const heard = metadata.leaderHeard()
    if (heard !== null && heard.nodeId !== nodeId) former = heard
    controllerChanged()
  })
  metadata.onApplied(records => {
    if (reign === null) return
    const concerns = (record: ImageRecord): boolean => DUTY_TYPES.has(record.type)
    if (records === null || records.some(concerns)) clock.soon(kick)
  })
  controllerChanged()

  return {
    heard: beat => {
      if (reign === null) return
      refused.delete(beat.nodeId)
      reign.liveness.heard(beat, metadata.appliedIndex(), clock.monotonicMs())
      const node = metadata.image().node(beat.nodeId)
      if (node?.fenced === true && !node.left) kick()
    },
    refused: gone => {
      refused.add(gone)
      reign?.liveness.refused(gone, clock.monotonicMs())
      kick()
    },
    back: nodeBack => {
      refused.delete(nodeBack)
    },
    kick,
    stop: async () => {
      stopped = true
      timer?.cancel()
      timer = null
      await running
    },
  }
}

/** Records after which there may be something to do. */
const DUTY_TYPES: ReadonlySet<ImageRecord['type']> = new Set([
  'topic_created',
  'topic_altered',
  'node_registered',
  'node_fenced',
  'node_unfenced',
  'node_draining',
  'node_removed',
  'partition_changed',
])
