import { describe, expect, test } from 'vitest'
import { createHubList } from '../../common/hub-list.ts'
import { seededRng } from '../rng.ts'

const list = (configured: string[], learned: string[] = []) =>
  createHubList(configured, seededRng(1), learned)

describe('addresses of a hub', () => {
  test('one after the other at once, then a wait, and again from where it was', () => {
    const hubs = list(['ws://a:1', 'ws://b:1', 'ws://c:1'])
    expect(hubs.current()).toBe('ws://a:1')
    expect([hubs.failed(), hubs.current()]).toEqual([true, 'ws://b:1'])
    expect([hubs.failed(), hubs.current()]).toEqual([true, 'ws://c:1'])
    expect([hubs.failed(), hubs.current()]).toEqual([false, 'ws://a:1'])
    expect(hubs.failed()).toBe(true)
    hubs.reached()
    expect([hubs.current(), hubs.failed(), hubs.failed(), hubs.failed()]).toEqual([
      'ws://b:1',
      true,
      true,
      false,
    ])
  })

  test('a hub at one address is waited for after each failure', () => {
    const hubs = list(['wss://a:1'])
    expect([hubs.failed(), hubs.failed(), hubs.current()]).toEqual([false, false, 'wss://a:1'])
  })

  test('what a hub tells of its nodes comes behind what was configured, in the same scheme', () => {
    const hubs = list(['wss://a:1'])
    expect(hubs.learn(['a:1', 'b:2', 'c:3'])).toBe(true)
    expect(hubs.learn(['c:3', 'b:2', 'a:1'])).toBe(false)
    const seen = new Set([hubs.current()])
    while (hubs.failed()) seen.add(hubs.current())
    expect([...seen].sort()).toEqual(['wss://a:1', 'wss://b:2', 'wss://c:3'])
    expect(hubs.current()).toBe('wss://a:1')
    const again = list(['wss://a:1'], [...hubs.learned()])
    expect(again.failed()).toBe(true)
    expect(again.current()).toMatch(/wss:\/\/[bc]/)
  })

  test('the one in use stays so when others come and go', () => {
    const hubs = list(['ws://a:1'], ['b:2'])
    hubs.failed()
    expect(hubs.current()).toBe('ws://b:2')
    hubs.learn(['c:3', 'b:2'])
    expect(hubs.current()).toBe('ws://b:2')
    hubs.learn([])
    expect(hubs.current()).toBe('ws://a:1')
  })

  test('nodes that only their own machine reaches are for those on it', () => {
    const far = list(['ws://10.0.0.1:1'])
    expect(far.learn(['127.0.0.1:2', 'localhost:3', '[::1]:4', 'nonsense'])).toBe(false)
    const near = list(['ws://localhost:1'])
    expect(near.learn(['127.0.0.1:2', '[::1]:4'])).toBe(true)
    expect(near.learned().length).toBe(2)
  })

  test('different edges go to different nodes', () => {
    const next = new Set<string>()
    for (let seed = 0; seed < 50; seed++) {
      const hubs = createHubList(['ws://a:1'], seededRng(seed))
      hubs.learn(['a:1', 'b:1', 'c:1', 'd:1'])
      hubs.failed()
      next.add(hubs.current())
    }
    expect(next.size).toBe(3)
  })
})
