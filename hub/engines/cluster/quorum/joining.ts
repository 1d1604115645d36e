import type { Logger } from 'pino'
import type { Clock, Timer } from '../../../../common/env.ts'
import { TributaryError } from '../../../../common/errors.ts'
import { SECOND_MS } from '../../../../common/limits.ts'
import type { Peers } from '../types.ts'
import type { FoundingStep } from './founding.ts'
import { foundingStep } from './founding.ts'

/** Waiting until it is clear whether an empty directory founds a cluster or joins one. */

/** Who may join waits so long for nodes that did not answer yet: they might belong to another cluster. */
const GRACE_MS = SECOND_MS

export interface JoiningContext {
  clock: Clock
  nodeId: number
  /** Ids of the nodes that it was told of. */
  peers: readonly number[]
  links: Pick<Peers, 'identity' | 'onLink'>
  log: Logger
  /** Told what it waits for. */
  waiting(reason: string): void
  stop: AbortSignal
}

type Decided = Extract<FoundingStep, { t: 'found' | 'join' }>

/** Rejects with `config_invalid` where the others belong to different clusters, `closed` where it is stopped. */
export function whenDecided(context: JoiningContext): Promise<Decided> {
  const { clock, nodeId, peers, links, log, waiting, stop } = context
  return new Promise((resolve, reject) => {
    let decided = false
    let told = ''
    let grace: Timer | null = null
    let graceOver = false
    /** Nodes that were linked, whether this one was told of them or they dialled it. */
    const met = new Set<number>()

    function consider(): void {
      if (decided) return
      const said = heard(peers)
      const step = members(foundingStep({ nodeId, peers, heard: said }))
      const isWhole = peers.every(peer => peer === nodeId || said.has(peer))
      if (step.t === 'join' && !isWhole && !graceOver) {
        grace ??= clock.setTimer(() => {
          graceOver = true
          consider()
        }, GRACE_MS)
        return
      }
      if (step.t === 'wait') {
        const nodes = step.nodes.join(', ')
        if (nodes !== told) log.info({ nodes: step.nodes }, 'waiting for other nodes to found a cluster with')
        told = nodes
        waiting(`it waits for other nodes to found a cluster with: ${nodes}`)
        return
      }
      decided = true
      grace?.cancel()
      if (step.t === 'torn') reject(torn(step.clusterIds))
      else resolve(step)
    }

    /** Where nobody that it was told of can say: members dial whom they know, though all of its peers were replaced meanwhile. */
    function members(step: FoundingStep): FoundingStep {
      if (step.t !== 'wait') return step
      const said = [...heard(met)].filter(([, clusterId]) => clusterId !== null)
      const theirs = foundingStep({ nodeId, peers, heard: new Map(said) })
      return theirs.t === 'join' ? theirs : step
    }

    function heard(nodes: Iterable<number>): Map<number, string | null> {
      const said = new Map<number, string | null>()
      for (const node of nodes) {
        const identity = links.identity(node)
        if (identity !== null) said.set(node, identity.clusterId)
      }
      return said
    }

    function stopped(): void {
      decided = true
      grace?.cancel()
      reject(new TributaryError('closed', 'stopped while waiting for other nodes'))
    }

    links.onLink(node => {
      met.add(node)
      consider()
    })
    if (stop.aborted) stopped()
    else stop.addEventListener('abort', stopped, { once: true })
    consider()
  })
}

function torn(clusterIds: readonly string[]): TributaryError {
  return new TributaryError(
    'config_invalid',
    `the nodes of cluster.peers belong to different clusters (${clusterIds.join(', ')}): name those of one`,
    { details: { clusterIds: clusterIds.join(' ') } },
  )
}
