import net from 'node:net'
import { afterEach, describe, expect, it } from 'vitest'
import { WebSocket } from 'ws'
import { SUBSCRIBE_PATH, UPLINK_PATH } from '../../../../common/wire.ts'
import type { AcceptSocket } from '../../../../hub/endpoints/http/upgrade.ts'
import type { Served, ServeOptions } from './serve.ts'
import { closeServed, serve, until } from './serve.ts'

const sockets: WebSocket[] = []

afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.terminate()
  await closeServed()
})

/** An endpoint that sends back what it gets. */
const echo: AcceptSocket = socket => {
  socket.on('message', data => socket.send(data))
  return {
    close: () =>
      new Promise(resolve => {
        socket.once('close', () => resolve())
        socket.close(1001, 'going away')
      }),
    sendAway: reason => socket.close(4001, reason),
  }
}

async function serveEcho(options: ServeOptions = {}): Promise<Served> {
  return serve({ upgrades: { [UPLINK_PATH]: echo, [SUBSCRIBE_PATH]: echo }, ...options })
}

interface Dialled {
  socket: WebSocket
  outcome: 'open' | { status: number; code: string; message: string }
}

function dial(hub: Served, path: string, headers: Record<string, string> = {}): Promise<Dialled> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://127.0.0.1:${hub.port}${path}`, { headers, perMessageDeflate: true })
    sockets.push(socket)
    socket.on('error', reject)
    socket.once('open', () => resolve({ socket, outcome: 'open' }))
    socket.once('unexpected-response', (_request, response) => {
      let text = ''
      response.on('data', chunk => {
        text += String(chunk)
      })
      response.on('end', () => {
        const { error } = JSON.parse(text)
        resolve({
          socket,
          outcome: { status: response.statusCode ?? 0, code: error.code, message: error.message },
        })
      })
    })
  })
}

function closeCode(socket: WebSocket): Promise<number> {
  socket.on('error', () => {})
  return new Promise(resolve => socket.once('close', code => resolve(code)))
}

/** Sends raw bytes and returns what comes back until the connection ends. */
function raw(hub: Served, bytes: string | Buffer): Promise<string> {
  return new Promise(resolve => {
    let answer = ''
    const socket = net.connect(hub.port, '127.0.0.1', () => socket.write(bytes))
    socket.on('data', chunk => {
      answer += String(chunk)
    })
    socket.on('error', () => {})
    socket.on('close', () => resolve(answer))
  })
}

describe('WebSocket upgrades', () => {
  it('reach the endpoint of their path, without compression', async () => {
    const hub = await serveEcho()
    for (const path of [UPLINK_PATH, SUBSCRIBE_PATH, `${UPLINK_PATH}?x=1`]) {
      const { socket, outcome } = await dial(hub, path)
      expect(outcome).toBe('open')
      expect(socket.extensions).toBe('')
      const echoed = new Promise(resolve => socket.once('message', resolve))
      socket.send(Uint8Array.of(1, 2, 3))
      expect(await echoed).toEqual(Buffer.of(1, 2, 3))
    }
    const { text } = await hub.call('GET', '/metrics')
    expect(text).toContain(`tributary_connections{path="${UPLINK_PATH}"} 2`)
    expect(text).toContain(`tributary_connections{path="${SUBSCRIBE_PATH}"} 1`)
  })

  it('are refused elsewhere, without a token, and over the limit', async () => {
    const hub = await serveEcho({ tokens: ['secret'], limits: { maxConnections: 1 } })
    const headers = { authorization: 'Bearer secret' }
    expect((await dial(hub, UPLINK_PATH)).outcome).toMatchObject({ status: 401, code: 'unauthorized' })
    expect((await dial(hub, UPLINK_PATH, { authorization: 'Bearer no' })).outcome).toMatchObject({
      status: 401,
    })
    expect((await dial(hub, '/v1/topics', headers)).outcome).toMatchObject({ status: 404, code: 'not_found' })
    expect((await dial(hub, '/constructor', headers)).outcome).toMatchObject({
      status: 404,
      code: 'not_found',
    })
    const first = await dial(hub, UPLINK_PATH, headers)
    expect(first.outcome).toBe('open')
    expect((await dial(hub, UPLINK_PATH, headers)).outcome).toMatchObject({
      status: 503,
      code: 'not_available',
      message: expect.stringContaining('limits.maxConnections'),
    })
    const { text } = await hub.call('GET', '/metrics', undefined, headers)
    expect(text).toContain('tributary_limit_hits_total{limit="maxConnections"} 1')
    const gone = closeCode(first.socket)
    first.socket.close()
    await gone
    let outcome: Dialled['outcome'] | undefined
    while (outcome !== 'open') outcome = (await dial(hub, UPLINK_PATH, headers)).outcome
  })

  it('are refused to web pages where the hub has no tokens', async () => {
    const hub = await serveEcho()
    const { outcome } = await dial(hub, SUBSCRIBE_PATH, { origin: 'https://evil.example' })
    expect(outcome).toMatchObject({ status: 401, code: 'unauthorized' })
  })

  it.each([
    ['no key', 'Sec-WebSocket-Version: 13\r\n'],
    ['a bad key', 'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n'],
    [
      'a version of the future',
      'Sec-WebSocket-Version: 99\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n',
    ],
  ])('with %s get a clear answer', async (_what, lines) => {
    const hub = await serveEcho()
    const head = `GET ${UPLINK_PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n`
    const answer = await raw(hub, `${head}${lines}\r\n`)
    expect(answer).toMatch(/^HTTP\/1.1 400 /)
    expect(JSON.parse(answer.split('\r\n\r\n')[1] ?? '').error).toMatchObject({
      code: 'protocol_error',
      message: expect.stringContaining('no valid WebSocket handshake'),
    })
  })

  it('with an oversize head end that connection alone', async () => {
    const hub = await serveEcho()
    const good = await dial(hub, UPLINK_PATH)
    const head = `GET ${UPLINK_PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX: `
    expect(await raw(hub, head + 'x'.repeat(100_000))).toMatch(/^(HTTP\/1.1 4|$)/)
    const echoed = new Promise(resolve => good.socket.once('message', resolve))
    good.socket.send('still here')
    expect(String(await echoed)).toBe('still here')
  })

  it('end when a message is oversize or garbage, and harm no other', async () => {
    const hub = await serveEcho({ limits: { maxFrameBytes: 1_000 } })
    const good = await dial(hub, UPLINK_PATH)
    const large = await dial(hub, UPLINK_PATH)
    const tooLarge = closeCode(large.socket)
    large.socket.send(new Uint8Array(1_001))
    expect(await tooLarge).toBe(1009)

    const garbage = await raw(
      hub,
      Buffer.concat([
        Buffer.from(
          `GET ${UPLINK_PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
            'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
        ),
        Buffer.alloc(64, 0xff),
      ]),
    )
    expect(garbage).toMatch(/^HTTP\/1.1 101 /)
    const echoed = new Promise(resolve => good.socket.once('message', resolve))
    good.socket.send('still here')
    expect(String(await echoed)).toBe('still here')
  })

  it('are sent away by a node that is not ready any more, where there are others', async () => {
    const hub = await serveEcho()
    const alone = await dial(hub, UPLINK_PATH)
    hub.fake.setNotReady('no controller is known')
    await new Promise(resolve => setTimeout(resolve, 700))
    expect(alone.socket.readyState).toBe(WebSocket.OPEN)
    const sent = new Promise(resolve =>
      alone.socket.once('close', (code, reason) => resolve({ code, reason: String(reason) })),
    )
    hub.fake.setAddresses(['ws://there'])
    expect(await sent).toEqual({ code: 4001, reason: 'no controller is known' })
  })

  it('are closed with 1001 when the hub stops, and cut where they do not answer', async () => {
    const hub = await serveEcho({ limits: { closeGraceMs: 100 } })
    const polite = await dial(hub, UPLINK_PATH)
    const code = closeCode(polite.socket)
    // Never reads again, so never answers the close.
    const deaf = net.connect(hub.port, '127.0.0.1')
    deaf.on('error', () => {})
    deaf.write(
      `GET ${SUBSCRIBE_PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
        'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
    )
    await new Promise<void>(resolve => deaf.once('data', () => resolve()))
    deaf.pause()
    const before = performance.now()
    await hub.close()
    expect(performance.now() - before).toBeLessThan(5_000)
    expect(await code).toBe(1001)
    deaf.destroy()
    await until(() => polite.socket.readyState === WebSocket.CLOSED)
  })
})
