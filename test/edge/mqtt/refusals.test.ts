import { createServer } from 'node:net'
import { connectAsync } from 'mqtt'
import { afterEach, describe, expect, test } from 'vitest'
import type { EdgeMqttConfig } from '../../../common/config-edge.ts'
import { isTributaryError } from '../../../common/errors.ts'
import { MAX_SUBSCRIPTIONS_PER_CLIENT } from '../../../edge/mqtt/sessions.ts'
import { hashPassword } from '../../../edge/mqtt/users.ts'
import type { Edge, EdgeOptions } from './harness.ts'
import { connectPacket, connectRaw, dial, settle, startEdge, until } from './harness.ts'

const edges: Edge[] = []
async function edgeOf(options: EdgeOptions = {}): Promise<Edge> {
  const edge = await startEdge(options)
  edges.push(edge)
  return edge
}

afterEach(async () => {
  for (const edge of edges.splice(0)) await edge.broker.close()
})

const text = (value: string) => [value.length >> 8, value.length & 255, ...Buffer.from(value)]
const packet = (first: number, body: readonly number[]) => [first, body.length, ...body]
const connectBytes = (name: string, level: number, flags: number, clientId: string) =>
  packet(0x10, [...text(name), level, flags, 0, 60, ...text(clientId)])

describe('CONNECT is refused', () => {
  test.each([
    ['protocol level 6', connectBytes('MQTT', 6, 2, 'x'), '20020001', 'set version 3.1.1'],
    ['an empty client id with clean=0', connectBytes('MQTT', 4, 0, ''), '20020002', 'needs a client id'],
    ['U+0000 in the client id', connectBytes('MQTT', 4, 2, 'a\0b'), '20020002', 'U+0000'],
    ['another protocol name', connectBytes('hj', 4, 2, 'x'), '', 'another protocol'],
    ['a client id that is cut off', packet(0x10, [...text('MQTT'), 4, 2, 0, 0, 0, 9, 65]), '', 'cut off'],
    [
      'a will with a wildcard',
      packet(0x10, [...text('MQTT'), 4, 6, 0, 0, ...text('x'), ...text('w/#'), 0, 0]),
      '',
      'will',
    ],
    ['another packet first', [0xc0, 0], '', 'no CONNECT'],
  ])('%s', async (_, bytes, answer, logged) => {
    const edge = await edgeOf()
    const client = await dial(edge.port)
    client.raw(...bytes)
    await client.expectClosed()
    expect(Buffer.concat(client.bytes).toString('hex')).toBe(answer)
    expect(edge.log.lines.join('\n')).toContain(logged)
  })

  test('MQTT 5, in its own terms, and the log names the client', async () => {
    const edge = await edgeOf()
    const error: unknown = await connectAsync(`mqtt://127.0.0.1:${edge.port}`, {
      protocolVersion: 5,
      clientId: 'modern',
      reconnectPeriod: 0,
    }).catch((reason: unknown) => reason)
    expect(String(error)).toContain('Unsupported Protocol Version')
    expect(edge.log.lines.join('\n')).toMatch(/set version 3\.1\.1.*"client":"modern"/)
  })

  test('a wrong password, an unknown user and nobody at all, where there is a users file', async () => {
    const users = Buffer.from(`# people\nme:${await hashPassword('secret')}\n`)
    const edge = await edgeOf({ config: { usersFile: 'users' }, files: { users } })
    const login = (username?: string, password?: string) =>
      connectRaw(edge.port, 'a', {
        ...(username !== undefined && { username }),
        ...(password !== undefined && { password }),
      })
    expect((await login('me', 'wrong')).received).toEqual(['connack 4'])
    expect((await login('you', 'secret')).received).toEqual(['connack 4'])
    expect((await login('me')).received).toEqual(['connack 4'])
    expect((await login()).received).toEqual(['connack 5'])
    expect((await login('me', 'secret')).received).toEqual(['connack 0'])
    expect(edge.broker.stats().refusedConnects).toBe(4)
  })

  test('a session for which there is no room', async () => {
    const edge = await edgeOf({ config: { maxSessionStateBytes: 100 } })
    for (const id of ['a', 'b']) await connectRaw(edge.port, id, { clean: false })
    expect((await connectRaw(edge.port, 'c', { clean: false })).received).toEqual(['connack 3'])
    expect((await connectRaw(edge.port, 'd')).received).toEqual(['connack 0'])
    expect((await connectRaw(edge.port, 'a', { clean: false })).received).toEqual(['connack 0 present'])
  })
})

describe('a connection ends, and no other, on', () => {
  test.each([
    ['a packet larger than maxPacketBytes', [0x30, 0xff, 0xff, 0x7f], 'maxPacketBytes'],
    ['a remaining length of five bytes', [0x30, 0xff, 0xff, 0xff, 0xff, 1], 'remaining length'],
    ['a second CONNECT', connectBytes('MQTT', 4, 2, 'x'), 'second CONNECT'],
    ['U+0000 in a topic', packet(0x30, text('a\0b')), 'U+0000'],
    ['a topic that is not UTF-8', packet(0x30, [0, 1, 0xff]), 'UTF-8'],
    ['an empty topic', packet(0x30, text('')), 'empty'],
    ['a wildcard in a topic', packet(0x30, text('a/+')), 'wildcard'],
    ['a topic of 101 levels', packet(0x30, text('/'.repeat(100))), '100 levels'],
    ['a topic below $SYS', packet(0x30, text('$SYS/x')), '$SYS'],
    ['a topic that is cut off', packet(0x30, [0, 9, 65]), 'cut off'],
    ['packet id 0 at QoS 1', packet(0x32, [...text('t'), 0, 0]), 'packet id 0'],
    ['no packet id at QoS 2', packet(0x34, text('t')), 'no packet id'],
    ['QoS 3', packet(0x36, [...text('t'), 0, 1]), 'QoS 3'],
    ['DUP at QoS 0', packet(0x38, text('t')), 'DUP'],
    ['packet id 0 in PUBREL', packet(0x62, [0, 0]), 'packet id 0'],
    ['PUBREL with wrong flags', packet(0x60, [0, 1]), 'flags'],
    ['PUBACK of one byte', packet(0x40, [1]), 'length'],
    ['SUBSCRIBE with packet id 0', packet(0x82, [0, 0, ...text('t'), 0]), 'packet id 0'],
    ['SUBSCRIBE without filter', packet(0x82, [0, 1]), 'no topic filter'],
    ['SUBSCRIBE to a malformed filter', packet(0x82, [0, 1, ...text('a/#/b'), 0]), 'malformed'],
    ['SUBSCRIBE with QoS 3', packet(0x82, [0, 1, ...text('t'), 3]), 'QoS'],
    ['UNSUBSCRIBE with U+0000', packet(0xa2, [0, 1, ...text('a\0')]), 'malformed'],
    ['PINGREQ with content', [0xc0, 1, 0], 'content'],
    ['a packet only servers send', packet(0x90, [0, 1, 0]), 'type 9'],
    ['packet type 0', [0, 0], 'type 0'],
  ])('%s', async (_, bytes, logged) => {
    const edge = await edgeOf({ config: { maxPacketBytes: 64 * 1024 } })
    const other = await connectRaw(edge.port, 'other')
    const client = await connectRaw(edge.port, 'a')
    client.raw(...bytes)
    await client.expectClosed()
    expect(client.received).toEqual(['connack 0'])
    expect(edge.log.lines.join('\n')).toContain(logged)
    expect(edge.broker.stats().protocolViolations).toBe(1)
    other.publish('t', 'm', 1, 1)
    expect(await other.expect(2)).toEqual(['connack 0', 'puback 1'])
    expect(edge.ingest.payloads()).toEqual(['m'])
  })

  test('silence beyond 1.5 x keepalive, but not while bytes come in', async () => {
    const edge = await edgeOf()
    const quiet = await connectRaw(edge.port, 'quiet', { keepalive: 10 })
    const pinging = await connectRaw(edge.port, 'pinging', { keepalive: 10 })
    edge.clock.skewMs += 14_000
    pinging.send({ cmd: 'pingreq' })
    await pinging.expect(2)
    expect(quiet.closed).toBe(false)
    edge.clock.skewMs += 2_000
    await quiet.expectClosed()
    expect(pinging.closed).toBe(false)
    expect(edge.broker.stats().keepaliveTimeouts).toBe(1)
  })

  test('no CONNECT in time, whatever drips in', async () => {
    const edge = await edgeOf()
    const client = await dial(edge.port)
    client.raw(0x10)
    await settle()
    edge.clock.skewMs += 9_000
    client.raw(20)
    await settle()
    edge.clock.skewMs += 2_000
    await client.expectClosed()
    expect(edge.broker.stats().connectTimeouts).toBe(1)
  })
})

test('a packet of just maxPacketBytes passes, also in small pieces', async () => {
  const edge = await edgeOf({ config: { maxPacketBytes: 10_000 } })
  const client = await connectRaw(edge.port, 'a')
  const payload = 'x'.repeat(10_000 - 3 - 3 - 2)
  client.publish('t', payload, 1, 1)
  await client.expect(2)
  const bytes = Buffer.from([...packet(0x32, [...text('t'), 0, 2, 65]), 0xc0, 0])
  for (const byte of bytes) {
    client.raw(byte)
    await settle()
  }
  expect(await client.expect(4)).toEqual(['connack 0', 'puback 1', 'puback 2', 'pingresp'])
  expect(edge.ingest.payloads()).toEqual([payload, 'A'])
})

test('connections over the limit are closed, and let in again when others have gone', async () => {
  const edge = await edgeOf({ config: { maxConnections: 2 } })
  const first = await connectRaw(edge.port, 'a')
  await connectRaw(edge.port, 'b')
  const third = await dial(edge.port)
  await third.expectClosed()
  expect(edge.broker.stats().connectionsRefused).toBe(1)
  first.drop()
  await until('one to go', () => edge.broker.stats().connections === 1)
  expect((await connectRaw(edge.port, 'c')).received).toEqual(['connack 0'])
})

test('subscriptions below $SYS and over the limit are refused with 0x80', async () => {
  const edge = await edgeOf()
  const client = await connectRaw(edge.port, 'a')
  client.subscribe('$SYS/#', 0, 1)
  expect((await client.expect(2))[1]).toBe('suback 1 128')
  for (let index = 0; index < MAX_SUBSCRIPTIONS_PER_CLIENT; index++) client.subscribe(`t/${index}`, 0, 2)
  await client.expect(2 + MAX_SUBSCRIPTIONS_PER_CLIENT)
  client.subscribe('one/more', 0, 3)
  expect((await client.expect(3 + MAX_SUBSCRIPTIONS_PER_CLIENT)).at(-1)).toBe('suback 3 128')
})

test('client takeover closes the first connection and serves the second', async () => {
  const edge = await edgeOf()
  const first = await connectRaw(edge.port, 'a')
  const second = await connectRaw(edge.port, 'a')
  await first.expectClosed()
  second.publish('t', 'm', 1, 1)
  expect(await second.expect(2)).toEqual(['connack 0', 'puback 1'])
  expect(edge.broker.stats().connections).toBe(1)
})

describe('starting', () => {
  const fault = (config: Partial<EdgeMqttConfig>, files: Record<string, Uint8Array> = {}) =>
    edgeOf({ config, files }).catch((error: unknown) => error)

  test('beyond loopback needs users or consent', async () => {
    const error = await fault({ listen: '0.0.0.0:0' })
    expect(isTributaryError(error, 'config_invalid') && error.message).toContain('--mqtt-users')
    const edge = await edgeOf({ config: { listen: '0.0.0.0:0', allowAnonymous: true } })
    expect(edge.port).toBeGreaterThan(0)
  })

  test('a port in use names the flag that changes it', async () => {
    const server = createServer()
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    const address = server.address()
    const port = typeof address === 'object' && address !== null ? address.port : 0
    const error = await fault({ listen: `127.0.0.1:${port}` })
    expect(isTributaryError(error, 'port_in_use') && error.message).toContain('--mqtt 127.0.0.1:PORT')
    server.close()
  })

  test('a users file with a bad line names the line', async () => {
    const error = await fault({ usersFile: 'users' }, { users: Buffer.from('ok\nme:secret') })
    expect(isTributaryError(error, 'config_invalid') && error.message).toContain('users, line 1')
    const missing = await fault({ usersFile: 'nowhere' })
    expect(isTributaryError(missing, 'config_invalid') && missing.message).toContain('--mqtt-users')
  })

  test('a garbled MQTT stream does not reach a connection that is still connecting', async () => {
    const edge = await edgeOf()
    const client = await dial(edge.port)
    client.send(connectPacket('a'))
    client.raw(0xf0, 0)
    await client.expectClosed()
    expect(client.received).toEqual(['connack 0'])
  })
})
