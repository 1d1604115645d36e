import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { ClusterNode } from '../../../../hub/engines/cluster/cluster-node.ts'
import { DISK_STUCK_MS } from '../../../../hub/engines/cluster/disk-watch.ts'
import { seededRng } from '../../../fake-clock.ts'
import { FakeDisk } from '../../../fake-disk.ts'
import { codeOf } from '../../replica/harness.ts'
import { addressOf } from '../peers/stage.ts'
import { NodeStage } from './nodes.ts'

const ALL = [1, 2, 3]
let stage: NodeStage

beforeEach(() => {
  stage = new NodeStage()
})

afterEach(() => stage.close())

function isWhole(ids: readonly number[] = ALL, voters = ids): boolean {
  return stage.isWhole(ids, voters)
}

/** Nodes 1 to 3 founded a cluster and vote. */
async function found(): Promise<void> {
  for (const id of ALL) stage.start(id, ALL)
  await stage.until(isWhole, 'all live and vote')
}

describe('founding', () => {
  it('waits until every node is there, then the lowest founds and the others join and vote', async () => {
    stage.start(2, ALL)
    stage.start(1, ALL)
    await stage.pass(3_000)
    expect([stage.process(1).node, stage.process(2).node]).toEqual([null, null])
    stage.start(3, ALL)
    expect(await stage.until(isWhole, 'all live and vote')).toBeLessThan(5_000)
    expect(new Set(ALL.map(id => stage.node(id).clusterId)).size).toBe(1)
    expect(stage.controller()).toBe(1)
  })

  it('is done at once by a node alone, which may grow to three', async () => {
    stage.start(1, [])
    await stage.until(() => isWhole([1]), 'it lives')
    const { clusterId } = stage.node(1)
    await stage.stop(1)
    for (const id of ALL) stage.start(id, ALL)
    await stage.until(isWhole, 'all live and vote')
    expect(ALL.map(id => stage.node(id).clusterId)).toEqual([clusterId, clusterId, clusterId])
  })

  it('does not happen twice: a founder whose directory was wiped joins what it founded', async () => {
    await found()
    const { clusterId } = stage.node(1)
    const seat = stage.node(1).metadata.seat()
    stage.kill(1)
    stage.wipe(1)
    stage.start(1, ALL)
    await stage.until(isWhole, 'it is back, and votes')
    expect(stage.node(1).clusterId).toBe(clusterId)
    expect(stage.node(2).metadata.status().config.voters).not.toContain(seat)
  })

  it('is refused where the nodes belong to different clusters', async () => {
    stage.start(1, [])
    stage.start(2, [])
    await stage.until(() => isWhole([1]) && isWhole([2]), 'two clusters')
    const { started } = stage.start(3, ALL)
    expect(await stage.run(codeOf(started))).toBe('config_invalid')
  })

  it('ends where it is stopped before the others came', async () => {
    const process = stage.start(1, ALL)
    await stage.pass(100)
    process.stop.abort()
    expect(await stage.run(codeOf(process.started))).toBe('closed')
  })
})

describe('a node', () => {
  it('that is killed is fenced at once, and lives again when it is back', async () => {
    await found()
    stage.kill(3)
    const fencedMs = await stage.until(() => `${stage.live(1)}` === '1,2', 'it is fenced')
    expect(fencedMs).toBeLessThan(600)
    stage.start(3, ALL)
    expect(await stage.until(isWhole, 'it lives')).toBeLessThan(1_000)
  })

  it('that is killed as the active controller is replaced at once', async () => {
    await found()
    stage.kill(1)
    expect(await stage.until(() => stage.controller() > 1, 'another is the controller')).toBeLessThan(300)
    expect(await stage.until(() => `${stage.live(2)}` === '2,3', 'it is fenced')).toBeLessThan(600)
  })

  it('that is cut off silently is fenced, also as the active controller, and serves nobody', async () => {
    await found()
    stage.cut(3)
    expect(await stage.until(() => `${stage.live(1)}` === '1,2', 'it is fenced')).toBeLessThan(2_000)
    await stage.until(() => stage.node(3).lifecycle.notReadyReason() !== null, 'it is not ready')
    stage.cut(1)
    // Two of three are cut off: nobody is left to decide.
    await stage.pass(3_000)
    expect(stage.controller()).toBe(0)
  })

  it('that is cut off silently as the active controller is replaced', async () => {
    await found()
    stage.cut(1)
    const replacedMs = await stage.until(() => stage.controller() > 1, 'another is the controller')
    expect(replacedMs).toBeLessThan(2_000)
    const fencedMs = await stage.until(() => `${stage.live(2)}` === '2,3', 'it is fenced')
    expect(replacedMs + fencedMs).toBeLessThan(2_500)
  })

  it('that stops in order is gone before its process, and so is its leadership', async () => {
    await found()
    const startMs = stage.clock.monotonicMs()
    await stage.stop(1)
    expect(stage.clock.monotonicMs() - startMs).toBeLessThan(500)
    expect(`${stage.live(2)}`).toBe('2,3')
    expect(await stage.until(() => stage.controller() > 1, 'another is the controller')).toBeLessThan(100)
  })

  it('that stops as the active controller without a majority stops all the same', async () => {
    await found()
    stage.kill(2)
    stage.kill(3)
    // It has begun to fence them, which nobody is left to commit.
    await stage.pass(700)
    expect(stage.controller()).toBe(1)
    const startMs = stage.clock.monotonicMs()
    await stage.stop(1)
    expect(stage.clock.monotonicMs() - startMs).toBeLessThan(8_000)
  })

  it('whose directory was wiped loses its seat and gets another', async () => {
    await found()
    const before = stage.node(3).metadata.seat()
    stage.kill(3)
    stage.wipe(3)
    stage.start(3, ALL)
    await stage.until(isWhole, 'it is back, and votes')
    const { voters, learners } = stage.node(1).metadata.status().config
    expect([...voters, ...learners]).not.toContain(before)
    expect(voters).toContain(stage.node(3).metadata.seat())
  })

  it('whose id another process took stops, and says why', async () => {
    await found()
    stage.cut(3)
    await stage.until(() => `${stage.live(1)}` === '1,2', 'it is fenced')
    const older = stage.process(3)
    stage.start(3, ALL, new FakeDisk({ rng: seededRng(99) }))
    await stage.until(isWhole, 'another one lives as it')
    // The first one dials the others still, or again: it hears of no controller, asks, and learns that it is nobody any more.
    await stage.until(() => older.failure !== null, 'it stops')
    expect(older.failure?.code).toBe('fenced')
    expect(isWhole()).toBe(true)
  })

  it('alive with another directory keeps out who comes under its id', async () => {
    await found()
    const accept = stage.net.listening.get(addressOf(3))
    const first = stage.process(3)
    const second = stage.start(3, ALL, new FakeDisk({ rng: seededRng(98) }))
    if (accept !== undefined) stage.net.listening.set(addressOf(3), accept)
    await stage.pass(5_000)
    expect(first.failure).toBeNull()
    expect(second.node?.lifecycle.incarnation() ?? null).toBeNull()
  })

  it('that is drained gives its vote away', async () => {
    const four = [1, 2, 3, 4]
    await found()
    stage.start(4, four)
    await stage.until(() => isWhole(four, ALL), 'the fourth one lives, and has no vote')
    await stage.run(stage.node(2).metadata.submit('drain-node', { nodeId: 1, draining: true }))
    await stage.until(() => `${stage.voters(2)}` === '2,3,4', 'it has no vote')
    expect(stage.controller()).toBeGreaterThan(1)
  })

  const FOUR = [1, 2, 3, 4]

  /** Node 4 joined, votes instead of node 1, and leads. */
  async function ledByFour(): Promise<void> {
    stage.start(4, FOUR)
    await stage.until(() => stage.live(2).includes(4), 'the fourth one lives')
    const leader = (): ClusterNode => stage.node(stage.controller())
    await stage.run(leader().metadata.submit('drain-node', { nodeId: 1, draining: true }))
    await stage.until(() => stage.voters(2).includes(4) && !stage.voters(2).includes(1), 'it votes')
    await stage.until(() => {
      if (stage.controller() !== 4) leader().metadata.transfer(stage.node(4).metadata.seat())
      return stage.controller() === 4
    }, 'it leads')
  }

  it('that was away while another one joined hears of it from that one, also when it leads', async () => {
    await found()
    stage.kill(3)
    await ledByFour()
    stage.start(3, ALL)
    await stage.until(() => `${stage.live(4)}` === `${FOUR}`, 'it is back')
  })

  it('that joins is told by those it was told of where the controller is', async () => {
    await found()
    await ledByFour()
    const { started } = stage.start(5, [2, 3, 5])
    await stage.run(started)
    await stage.until(() => stage.live(4).includes(5), 'it lives')
  })

  it('whose directory was wiped finds a controller that its configuration does not know', async () => {
    await found()
    await ledByFour()
    stage.kill(3)
    stage.wipe(3)
    const startMs = stage.clock.monotonicMs()
    const { started } = stage.start(3, ALL)
    await stage.run(started)
    expect(stage.clock.monotonicMs() - startMs).toBeLessThan(3_000)
  })
})

describe('a disk that hangs without failing', () => {
  const electionsOf = (id: number): number => stage.node(id).metadata.stats().elections

  /** Something is to be committed, whatever becomes of it. */
  function write(id: number): void {
    stage
      .node(id)
      .metadata.submit('reserve-producer-ids', {})
      .catch(() => {})
  }

  it('of the controller lets another one lead; it comes back when the disk answers', async () => {
    await found()
    const controller = stage.controller()
    const others = ALL.filter(id => id !== controller)
    const [other = 0] = others
    const release = stage.process(controller).disk.holdSyncs()
    write(controller)
    const tookMs = await stage.until(() => others.includes(stage.controller()), 'another one leads')
    expect(tookMs).toBeGreaterThan(DISK_STUCK_MS)
    expect(tookMs).toBeLessThan(DISK_STUCK_MS + 4_000)
    await stage.until(() => `${stage.live(other)}` === `${others}`, 'it is not taken for alive')
    expect(stage.node(controller).lifecycle.notReadyReason()).toContain('disk')
    await stage.run(stage.node(other).metadata.submit('reserve-producer-ids', {}))
    await stage.pass(5_000)
    expect(`${stage.live(other)}`).toBe(`${others}`)
    release()
    await stage.until(isWhole, 'all live and vote')
    expect(stage.node(controller).lifecycle.notReadyReason()).toBeNull()
    expect(stage.process(controller).failure).toBeNull()
    await stage.run(stage.node(controller).metadata.submit('reserve-producer-ids', {}))
  })

  it('of another node costs that one its place, and nobody an election', async () => {
    await found()
    const [controller, last] = [stage.controller(), 3]
    expect(controller).not.toBe(last)
    const before = ALL.map(electionsOf)
    const release = stage.process(last).disk.holdSyncs()
    write(controller)
    await stage.until(() => `${stage.live(controller)}` === '1,2', 'it is not taken for alive')
    release()
    await stage.until(isWhole, 'all live and vote')
    expect(ALL.map(electionsOf)).toEqual(before)
  })

  it('for less than the limit, again and again, changes nothing', async () => {
    await found()
    const before = ALL.map(electionsOf)
    for (let round = 0; round < 4; round++) {
      const releases = ALL.map(id => stage.process(id).disk.holdSyncs())
      write(1)
      await stage.pass(8_000)
      for (const release of releases) release()
      await stage.pass(20)
    }
    expect(isWhole()).toBe(true)
    expect(ALL.map(electionsOf)).toEqual(before)
  })

  it('of a node alone is waited for: nobody else could lead', async () => {
    stage.start(1, [])
    await stage.until(() => isWhole([1]), 'it lives')
    const release = stage.process(1).disk.holdSyncs()
    write(1)
    await stage.pass(DISK_STUCK_MS + 5_000)
    expect(stage.process(1).dataDir?.stuckMs()).toBeGreaterThan(DISK_STUCK_MS)
    expect(stage.node(1).lifecycle.notReadyReason()).toBeNull()
    release()
    await stage.run(stage.node(1).metadata.submit('reserve-producer-ids', {}))
    expect(isWhole([1])).toBe(true)
  })

  it('is not seen in one whose process was stopped for a while', async () => {
    await found()
    const release = stage.process(1).disk.holdSyncs()
    write(1)
    await stage.pass(1_000)
    stage.clock.advance(DISK_STUCK_MS + 5_000)
    release()
    await stage.pass(500)
    expect(ALL.map(id => stage.node(id).metadata.stats().isAside)).toEqual([false, false, false])
  })
})
