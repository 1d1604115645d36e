import { afterEach, describe, expect, it } from 'vitest'
import { codeOf } from '../../replica/harness.ts'
import { connect, edgesOf, QuorumStage } from './stage.ts'

let seeds = 100
let stage: QuorumStage

async function found(count: number): Promise<QuorumStage> {
  stage = new QuorumStage(++seeds)
  await stage.found(count)
  return stage
}

afterEach(() => stage.close())

describe('metadata of several nodes', () => {
  it('takes requests at any node and shows them at all', async () => {
    await found(3)
    for (const id of [1, 2, 3]) await stage.run(connect(stage.metadata(id), `e${id}`))
    await stage.pass(200)
    for (const id of [1, 2, 3]) expect(edgesOf(stage.metadata(id))).toEqual(['e1', 'e2', 'e3'])
    expect(stage.metadata(2).controllerId()).toBe(1)
  })

  it('goes on with another leader when the first is gone', async () => {
    await found(3)
    await stage.run(connect(stage.metadata(2), 'before'))
    stage.crash(1)
    await stage.until(() => stage.leader() !== null, 'another leads', 4_000)
    await stage.run(connect(stage.metadata(2), 'after'))
    await stage.start(1)
    await stage.until(() => edgesOf(stage.metadata(1)).length === 2, 'the first one follows')
    expect(edgesOf(stage.metadata(1))).toEqual(['before', 'after'])
  })

  it('takes nobody for one who has the log who has not acked to this leader', async () => {
    await found(3)
    expect(stage.metadata(1).hasLog(stage.seat(3))).toBe(true)
    const dead = stage.seat(3)
    stage.crash(3)
    stage.crash(1)
    await stage.start(1)
    await stage.until(() => stage.leader() !== null, 'one of the two leads', 4_000)
    const leads = stage.leaderId()
    await stage.until(() => stage.leader()?.hasLog(stage.seat(leads === 1 ? 2 : 1)), 'the other one acks')
    expect(stage.leader()?.hasLog(dead)).toBe(false)
  })

  it('refuses within a time where no majority is there', async () => {
    await found(3)
    stage.crash(1)
    stage.crash(3)
    expect(await stage.run(codeOf(connect(stage.metadata(2), 'x')))).toBe('not_available')
  })

  it('asks no more for who has gone meanwhile', async () => {
    await found(3)
    stage.crash(1)
    stage.crash(3)
    let isWanted = true
    const code = codeOf(connect(stage.metadata(2), 'gone', () => isWanted))
    await stage.pass(1_000)
    isWanted = false
    await stage.start(1)
    expect(await stage.run(code)).toBe('closed')
    await stage.run(connect(stage.metadata(2), 'there'))
    expect(edgesOf(stage.metadata(2))).toEqual(['there'])
  })

  it('elects nobody while no disk gets anything done', async () => {
    await found(3)
    const { term } = stage.metadata(1).status()
    const release = [1, 2, 3].map(id => stage.node(id).disk.holdSyncs())
    const waiting = connect(stage.metadata(2), 'patient')
    await stage.pass(8_000)
    for (const id of [1, 2, 3])
      expect(stage.metadata(id).status()).toMatchObject({ term, leader: stage.seat(1) })
    for (const open of release) open()
    await stage.run(waiting)
    expect(edgesOf(stage.metadata(2))).toEqual(['patient'])
  })

  it('brings a member that was away for long up to date by a snapshot in pieces', async () => {
    stage = new QuorumStage(++seeds)
    stage.snapshots = { fromBytes: 200_000, atRatio: 1, keptEntries: 10 }
    await stage.found(3)
    stage.crash(3)
    for (let round = 0; round < 4; round++) {
      const many = Array.from({ length: 1_000 }, (_, at) => connect(stage.metadata(1), `e${round}-${at}`))
      await stage.run(Promise.all(many))
    }
    await stage.start(3)
    let installs = 0
    stage.metadata(3).onApplied(records => {
      if (records === null) installs++
    })
    await stage.until(() => edgesOf(stage.metadata(3)).length === 4_000, 'it has all')
    expect(installs).toBeGreaterThan(0)
    expect(stage.node(1).disk.contentOf('/hub/metadata.snapshot').length).toBeGreaterThan(300_000)
  })

  it('is not told of by a leader that does not know that it is none any more', async () => {
    await found(3)
    await stage.run(connect(stage.metadata(1), 'known'))
    stage.isolate(1)
    await stage.until(() => stage.leader() !== stage.metadata(1) && stage.leader() !== null, 'another leads')
    await stage.run(connect(stage.metadata(2), 'later'))
    // It answers nothing, not even that something is not there, before it can show that it leads.
    const old = stage.metadata(1)
    const asked =
      old.activeTerm() === null ? 'not_available' : await stage.run(codeOf(old.submit('sync', {})))
    expect(asked).toBe('not_available')
  })
})
