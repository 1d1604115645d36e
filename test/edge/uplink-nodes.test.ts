import { describe, expect, test } from 'vitest'
import { seededRng } from '../rng.ts'
import { createEdgeStage, until } from './edge-stage.ts'

/** An edge of a hub of several nodes. */

const PATH = '/v1/uplink'
const url = (node: string) => `ws://${node}${PATH}`
const SLOW = { uplink: { backoffMinMs: 60_000, backoffMaxMs: 60_000 } }

describe('nodes of a hub', () => {
  test('the next one is dialled at once when the one in use is lost, without a warning', async () => {
    const stage = createEdgeStage(seededRng(1))
    await stage.openHub()
    await stage.openEdge({ hub: 'ws://a:1,ws://b:1,ws://c:1', ...SLOW })
    await stage.append('1')
    await stage.drained()
    expect(stage.uplink.stats()).toMatchObject({ connected: true, hub: 'ws://a:1' })
    stage.gone.add(url('a:1')).add(url('b:1'))
    stage.cut()
    await stage.append('2')
    await stage.drained()
    expect(stage.dials).toEqual([url('a:1'), url('b:1'), url('c:1')])
    expect(stage.uplink.stats().hub).toBe('ws://c:1')
    expect(stage.warnings).toEqual([])
    stage.gone.add(url('c:1'))
    stage.cut()
    await until('the word that all are away', () => stage.warnings.length === 1)
    expect(stage.dials.length).toBe(5)
    expect((await stage.stored()).ids).toEqual(['1', '2'])
    await stage.closeEdge()
  })

  test('an edge that was given one learns of the others, and remembers them over a restart', async () => {
    const stage = createEdgeStage(seededRng(2))
    stage.nodes = ['a:1', 'b:1']
    await stage.openHub()
    await stage.openEdge({ hub: 'ws://a:1', ...SLOW })
    await stage.append('1')
    await stage.drained()
    await stage.closeEdge()
    stage.gone.add(url('a:1'))
    await stage.openEdge({ hub: 'ws://a:1', ...SLOW })
    await stage.append('2')
    await stage.drained()
    expect(stage.uplink.stats().hub).toBe('ws://b:1')
    expect((await stage.stored()).ids).toEqual(['1', '2'])
    expect(stage.warnings).toEqual([])
    await stage.closeEdge()
  })
})
