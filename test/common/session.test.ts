import { describe, expect, test } from 'vitest'
import type { Channel, ChannelClosed } from '../../common/channel.ts'
import { CLOSE_TIMEOUT_MS, createHeartbeat } from '../../common/channel.ts'
import { TributaryError } from '../../common/errors.ts'
import type { AcceptedChannel } from '../../common/session.ts'
import { acceptChannel, dialChannel, HANDSHAKE_TIMEOUT_MS, negotiate } from '../../common/session.ts'
import type { WelcomeFrame } from '../../common/wire.ts'
import { encodeFrame } from '../../common/wire-codec.ts'
import { FakeClock } from '../fake-clock.ts'
import { linkPair } from '../links.ts'
import { rawPeer, until } from '../raw-peer.ts'

test('the highest version that both speak is in force', () => {
  expect(negotiate({ min: 1, max: 1 })).toBe(1)
  expect(negotiate({ min: 0, max: 9 })).toBe(1)
  expect(() => negotiate({ min: 2, max: 9 })).toThrow(
    /speaks protocol 1 to 1, the dialler 2 to 9: update the hub/,
  )
  expect(() => negotiate({ min: 0, max: 0 })).toThrow(/update the dialler/)
})

describe('heartbeat', () => {
  const limits = { heartbeatMs: 20, deadMs: 60 }

  test('pings what it has sent nothing to, and is dead when it heard nothing', () => {
    const heartbeat = createHeartbeat(limits, 0)
    expect(heartbeat.due(0)).toEqual({ action: 'none', nextMs: 20 })
    expect(heartbeat.due(20).action).toBe('ping')
    heartbeat.sent(20)
    expect(heartbeat.due(21)).toEqual({ action: 'none', nextMs: 40 })
    heartbeat.sent(40)
    expect(heartbeat.due(59)).toEqual({ action: 'none', nextMs: 60 })
    expect(heartbeat.due(60).action).toBe('dead')
    heartbeat.received(60)
    expect(heartbeat.due(61).action).toBe('ping')
  })

  test('while something is expected it asks sooner and gives up sooner', () => {
    const heartbeat = createHeartbeat({ ...limits, ask: { afterMs: 4, deadMs: 12 } }, 0)
    expect(heartbeat.due(10)).toEqual({ action: 'none', nextMs: 20 })
    heartbeat.expect(true, 10)
    expect(heartbeat.due(10)).toEqual({ action: 'none', nextMs: 14 })
    expect(heartbeat.due(14)).toEqual({ action: 'ping', nextMs: 18 })
    heartbeat.sent(14)
    expect(heartbeat.due(15)).toEqual({ action: 'none', nextMs: 18 })
    expect(heartbeat.due(18).action).toBe('ping')
    heartbeat.received(19)
    expect(heartbeat.due(22)).toEqual({ action: 'none', nextMs: 23 })
    expect(heartbeat.due(31).action).toBe('dead')
    heartbeat.expect(false, 31)
    expect(heartbeat.due(33)).toEqual({ action: 'none', nextMs: 34 })
    heartbeat.expect(true, 33)
    heartbeat.expect(true, 40)
    expect(heartbeat.due(45).action).toBe('dead')
  })

  test('a side that does not read calls nobody dead, yet goes on pinging', () => {
    const heartbeat = createHeartbeat(limits, 0)
    heartbeat.suspend()
    expect(heartbeat.due(1_000).action).toBe('ping')
    heartbeat.sent(1_000)
    heartbeat.resume(1_000)
    expect(heartbeat.due(1_019).action).toBe('none')
    heartbeat.sent(1_020)
    heartbeat.sent(1_040)
    heartbeat.sent(1_059)
    expect(heartbeat.due(1_060).action).toBe('dead')
  })
})

/** Both ends of ours over one pair, or one end of ours against a raw peer. */
function ends(options: { raw?: 'hub' | 'client' } = {}) {
  const clock = new FakeClock()
  const pair = linkPair()
  const closed: { hub?: ChannelClosed; client?: ChannelClosed } = {}
  const welcomes: WelcomeFrame[] = []
  let hub: AcceptedChannel | null = null
  let client: Channel | null = null
  if (options.raw !== 'hub') {
    hub = acceptChannel(pair.right, {
      clock,
      frames: 'client',
      heartbeatMs: 20_000,
      deadMs: 60_000,
      maxFrameBytes: 100_000,
      hello: () => hub?.welcome({ clusterId: 'c', nodeId: 4 }),
      frame: () => {},
      drain: () => {},
      closed: how => {
        closed.hub = how
      },
    })
  }
  if (options.raw !== 'client') {
    client = dialChannel(pair.left, {
      clock,
      frames: 'client-hub',
      hello: { software: 'test' },
      ask: { afterMs: 2_000, deadMs: 6_000 },
      welcome: welcome => welcomes.push(welcome),
      frame: () => {},
      drain: () => {},
      closed: how => {
        closed.client = how
      },
    })
  }
  return { clock, pair, closed, welcomes, hub: () => hub, client: () => client }
}

const hello = { t: 'hello', min: 1, max: 3, software: 'raw' } as const

describe('channels', () => {
  test('both ends shake hands, and stay together for hours of silence by pings alone', async () => {
    const { clock, closed, welcomes } = ends()
    await until(() => welcomes.length === 1, 'the welcome')
    expect(welcomes[0]).toMatchObject({
      protocol: 1,
      clusterId: 'c',
      nodeId: 4,
      heartbeatMs: 20_000,
      deadMs: 60_000,
    })
    for (let step = 0; step < 400; step++) {
      clock.advance(19_000)
      await new Promise(resolve => setImmediate(resolve))
      await new Promise(resolve => setImmediate(resolve))
    }
    expect(closed).toEqual({})
  })

  test('a hub that owes an answer and says nothing is given up soon; one that owes none is not', async () => {
    const { clock, pair, closed, welcomes, client } = ends({ raw: 'hub' })
    const pings: number[] = []
    pair.right.handle({ message: () => pings.push(clock.monotonicMs()), drain: () => {}, close: () => {} })
    const limits = { maxFrameBytes: 100_000, heartbeatMs: 20_000, deadMs: 60_000 }
    pair.right.send(
      encodeFrame({ t: 'welcome', protocol: 1, clusterId: 'c', nodeId: 1, nowMs: 1, ...limits }),
    )
    await until(() => welcomes.length === 1, 'the welcome')
    const pass = async (ms: number) => {
      for (let step = 0; step < ms; step += 500) {
        clock.advance(500)
        for (let turn = 0; turn < 4; turn++) await new Promise(resolve => setImmediate(resolve))
      }
    }
    await pass(15_000)
    expect(pings.length).toBe(1)
    client()?.expect(true)
    await pass(5_000)
    expect(pings.length).toBe(3)
    pair.right.send(encodeFrame({ t: 'pong', echoMs: 1, nowMs: 1 }))
    await pass(5_500)
    expect(closed).toEqual({})
    client()?.expect(false)
    await pass(10_000)
    expect(closed).toEqual({})
    client()?.expect(true)
    await pass(6_500)
    expect(closed.client?.error?.code).toBe('timeout')
  })

  test('a process that was held up reads what came meanwhile before it calls anybody dead', async () => {
    const { clock, pair, closed, welcomes, client } = ends({ raw: 'hub' })
    pair.right.handle({ message: () => {}, drain: () => {}, close: () => {} })
    const nowMs = 1
    const limits = { maxFrameBytes: 100_000, heartbeatMs: 20_000, deadMs: 60_000 }
    pair.right.send(encodeFrame({ t: 'welcome', protocol: 1, clusterId: 'c', nodeId: 1, nowMs, ...limits }))
    await until(() => welcomes.length === 1, 'the welcome')
    pair.right.send(encodeFrame({ t: 'pong', echoMs: 1, nowMs }))
    clock.advance(61_000)
    for (let turn = 0; turn < 5; turn++) await new Promise(resolve => setImmediate(resolve))
    expect(closed).toEqual({})
    expect(client()?.isOpen()).toBe(true)
    clock.advance(61_000)
    await until(() => closed.client !== undefined, 'the end')
    expect(closed.client?.error?.code).toBe('timeout')
  })

  test('an end whose packets vanish is found dead', async () => {
    const { clock, pair, closed, welcomes } = ends()
    await until(() => welcomes.length === 1, 'the welcome')
    pair.hold('right')
    for (let step = 0; step < 7; step++) {
      clock.advance(10_000)
      await new Promise(resolve => setImmediate(resolve))
    }
    await until(() => closed.hub !== undefined, 'the end')
    expect(closed.hub?.error).toMatchObject({ code: 'timeout' })
  })

  test('a dialler that says nothing is closed, and so is a hub that sends no welcome', async () => {
    const silent = ends({ raw: 'client' })
    const peer = rawPeer(silent.pair.left, 'client-hub')
    silent.clock.advance(HANDSHAKE_TIMEOUT_MS)
    expect(await peer.expect('error')).toMatchObject({ code: 'timeout', fatal: true })
    const mute = ends({ raw: 'hub' })
    const hub = rawPeer(mute.pair.right, 'hello')
    await hub.expect('hello')
    mute.clock.advance(HANDSHAKE_TIMEOUT_MS)
    expect(await hub.expect('error')).toMatchObject({ code: 'timeout', fatal: true })
  })

  test('pings are answered at once', async () => {
    const { pair } = ends({ raw: 'client' })
    const peer = rawPeer(pair.left, 'client-hub')
    peer.send(hello)
    await peer.expect('welcome')
    peer.send({ t: 'ping', nowMs: 77 })
    expect(await peer.expect('pong')).toMatchObject({ echoMs: 77 })
  })

  test('an oversize frame, garbage or a frame out of place ends the connection with its reason', async () => {
    const bad: [Uint8Array, string][] = [
      [new Uint8Array(200_000), 'frame_too_large'],
      [new Uint8Array([0xff, 0x00]), 'protocol_error'],
      [encodeFrame({ t: 'start', session: 1 }), 'protocol_error'],
      [encodeFrame(hello), 'protocol_error'],
    ]
    for (const [bytes, code] of bad) {
      const { pair, closed } = ends({ raw: 'client' })
      const peer = rawPeer(pair.left, 'client-hub')
      peer.send(hello)
      await peer.expect('welcome')
      peer.sendBytes(bytes)
      expect(await peer.expect('error')).toMatchObject({ code, fatal: true })
      expect((await peer.whenClosed).code).toBe(4000)
      await until(() => closed.hub !== undefined, 'the end')
      expect(closed.hub?.error?.code).toBe(code)
    }
  })

  test('a welcome of a version not offered is refused', async () => {
    const { pair, closed } = ends({ raw: 'hub' })
    const hub = rawPeer(pair.right, 'hello')
    await hub.expect('hello')
    const rest = { clusterId: 'c', nodeId: 1, nowMs: 1, maxFrameBytes: 9, heartbeatMs: 1_000, deadMs: 2_000 }
    hub.send({ t: 'welcome', protocol: 9, ...rest })
    expect(await hub.expect('error')).toMatchObject({ code: 'unsupported_version' })
    await until(() => closed.client !== undefined, 'the end')
    expect(closed.client?.error?.code).toBe('unsupported_version')
  })

  test('the other end learns why, and one that does not answer the close is cut', async () => {
    const { clock, pair, closed, hub, welcomes } = ends()
    await until(() => welcomes.length === 1, 'the welcome')
    hub()?.fail(new TributaryError('fenced', 'a newer one came'))
    expect(hub()?.isOpen()).toBe(false)
    await until(() => closed.client !== undefined, 'the end')
    expect(closed.client).toMatchObject({ error: { code: 'fenced', message: 'a newer one came' } })

    const stuck = ends()
    await until(() => stuck.welcomes.length === 1, 'the welcome')
    stuck.pair.hold('left')
    stuck.hub()?.close(1001, 'the hub stops')
    stuck.clock.advance(CLOSE_TIMEOUT_MS + 1)
    await until(() => stuck.closed.hub !== undefined, 'the cut')
    expect(stuck.closed.hub?.code).toBe(1006)
    expect(pair.isClosed()).toBe(true)
    expect(clock.pendingTimers()).toBe(0)
  })
})
