import { assert } from '../../../../common/assert.ts'
import { isTributaryError } from '../../../../common/errors.ts'
import { connect, edgesOf, QuorumStage } from './stage.ts'

const STEPS = 80
const NODES = [1, 2, 3]

/** What was seen to happen, so that a run without the hard cases counts for nothing. */
export interface QuorumSeen {
  answered: number
  refused: number
  leaders: number
  crashes: number
  installs: number
  snapshots: number
  fullDisks: number
}

/**
 * One schedule of faults for the metadata of three nodes: power cuts that lose what was not synced, links that lose, delay and are cut one
 * way or both, disks that are full for a while. What was answered must be in the image of every leader from then on, and when all is
 * healed in all images, which must be the same.
 */
export async function runQuorumSchedule(seed: number): Promise<QuorumSeen> {
  const stage = new QuorumStage(seed)
  const { rng } = stage
  stage.snapshots = { fromBytes: 2_000, atRatio: 1, keptEntries: rng.below(4) }
  await stage.found(NODES.length)
  const answered: string[] = []
  const seen = { answered: 0, refused: 0, leaders: 0, crashes: 0, installs: 0, snapshots: 0, fullDisks: 0 }
  const terms = new Set<number>()
  let proposed = 0

  /** Every leader that begins has all that was answered before. */
  function checkLeader(): void {
    for (const id of NODES) {
      const term = stage.node(id).up?.metadata.activeTerm() ?? null
      if (term === null || terms.has(term)) continue
      terms.add(term)
      seen.leaders++
      checkHasAll(id, answered)
    }
  }

  function checkHasAll(id: number, wanted: readonly string[]): void {
    const there = new Set(edgesOf(stage.metadata(id)))
    const lost = wanted.filter(edge => !there.has(edge))
    assert(lost.length === 0, `node ${id} lacks ${lost.join(' ')}, which were answered`)
  }

  function pick(): number {
    return NODES[rng.below(NODES.length)] ?? 1
  }

  /** Often the leader: what it began and could not finish is where it gets hard. */
  function victim(): number {
    return rng.below(2) === 0 ? stage.leaderId() || pick() : pick()
  }

  function propose(): void {
    const { up } = stage.node(victim())
    if (up === null) return
    for (let count = 1 + rng.below(3); count > 0; count--) {
      const edge = `p${proposed++}`
      connect(up.metadata, edge).then(
        () => answered.push(edge),
        () => seen.refused++,
      )
    }
  }

  async function startAgain(id: number): Promise<void> {
    const node = stage.node(id)
    if (node.up !== null && node.failure === null) return
    // A node that stopped by itself is started anew, as by its supervisor.
    if (node.up !== null) stage.crash(id)
    node.failure = null
    try {
      await stage.start(id)
    } catch (error) {
      if (isTributaryError(error, 'disk_full')) return
      throw error
    }
    stage.metadata(id).start()
    stage.metadata(id).onApplied(records => {
      if (records === null) seen.installs++
    })
  }

  const actions: readonly [number, () => void | Promise<void>][] = [
    [40, propose],
    [
      6,
      () => {
        seen.crashes++
        stage.crash(victim())
      },
    ],
    [10, () => startAgain(pick())],
    [8, () => stage.isolate(victim())],
    [5, () => stage.cut(victim(), pick())],
    [8, () => stage.heal()],
    [
      4,
      () => {
        stage.faults.lossOneIn = 2 + rng.below(10)
        stage.faults.delayMs = rng.below(300)
      },
    ],
    [
      3,
      () => {
        seen.fullDisks++
        const { disk } = stage.node(victim())
        disk.setCapacity(disk.usedBytes() - 60_000)
      },
    ],
    [6, () => stage.node(pick()).disk.setCapacity(Number.POSITIVE_INFINITY)],
  ]
  const total = actions.reduce((sum, [weight]) => sum + weight, 0)

  for (let step = 0; step < STEPS; step++) {
    let at = rng.below(total)
    for (const [weight, act] of actions) {
      at -= weight
      if (at >= 0) continue
      await act()
      break
    }
    await stage.pass([0, 10, 50, 300, 2_000][rng.below(5)] ?? 10, 10)
    checkLeader()
  }

  stage.heal()
  for (const id of NODES) stage.node(id).disk.setCapacity(Number.POSITIVE_INFINITY)
  for (const id of NODES) await startAgain(id)
  await stage.until(() => stage.leader() !== null, 'healed, somebody leads', 30_000)
  await stage.run(connect(stage.metadata(stage.leaderId()), 'last'))
  answered.push('last')
  await stage.until(
    () => NODES.every(id => edgesOf(stage.metadata(id)).includes('last')),
    'all follow',
    30_000,
  )
  for (const id of NODES) checkHasAll(id, answered)
  const images = NODES.map(id => JSON.stringify(stage.metadata(id).image().records()))
  assert(
    images.every(image => image === images[0]),
    'the images are not the same',
  )
  for (const id of NODES) if (stage.node(id).disk.paths().includes('/hub/metadata.snapshot')) seen.snapshots++
  seen.answered = answered.length
  await stage.close()
  return seen
}
