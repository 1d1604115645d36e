import { describe, expect, test } from 'vitest'
import { clientStage } from '../client-stage.ts'

/** A client of a hub of several nodes. */

const PATH = '/v1/subscribe'
const url = (node: string) => `ws://${node}${PATH}`

describe('nodes of a hub', () => {
  test('the next one is dialled at once when the one in use is lost, and again when all were tried', async () => {
    const stage = clientStage({ hub: 'a:1,b:1,c:1' })
    await stage.ports.topics.create({ name: 't' })
    await stage.client.produce('t', [{ value: 'x' }])
    expect(stage.dials).toEqual([url('a:1')])
    stage.gone.add(url('a:1')).add(url('b:1'))
    stage.pairs.at(-1)?.cut()
    const atMs = performance.now()
    await stage.client.produce('t', [{ value: 'y' }])
    expect(stage.dials).toEqual([url('a:1'), url('b:1'), url('c:1')])
    stage.gone.add(url('c:1'))
    stage.gone.delete(url('a:1'))
    stage.pairs.at(-1)?.cut()
    await stage.client.produce('t', [{ value: 'z' }])
    expect(stage.dials.at(-1)).toBe(url('a:1'))
    expect(performance.now() - atMs).toBeLessThan(2_000)
    await stage.client.close()
  })

  test('a client that was given one learns of the others and survives its loss', async () => {
    const stage = clientStage({ hub: 'ws://a:1' })
    stage.ports.setAddresses(['a:1', 'b:1', '127.0.0.1:9'])
    await stage.ports.topics.create({ name: 't' })
    const seen: number[] = []
    const reading = (async () => {
      for await (const { offset } of stage.client.consume('t', {
        from: 'earliest',
        partitions: [0],
        count: 2,
      })) {
        seen.push(offset)
      }
    })()
    await stage.client.producer('t', { lingerMs: 0 }).send({ value: '1', partition: 0 })
    stage.gone.add(url('a:1'))
    stage.pairs.at(-1)?.cut()
    await stage.client.producer('t', { lingerMs: 0 }).send({ value: '2', partition: 0 })
    await reading
    expect(seen).toEqual([0, 1])
    expect(new Set(stage.dials)).toEqual(new Set([url('a:1'), url('b:1')]))
    await stage.client.close()
  })
})
