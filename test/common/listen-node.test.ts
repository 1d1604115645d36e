import { request } from 'node:http'
import { afterEach, describe, expect, test } from 'vitest'
import type { DialOptions, Link } from '../../common/env.ts'
import { isTributaryError } from '../../common/errors.ts'
import type { PeerListener, PeerListenerOptions } from '../../common/listen-node.ts'
import { listenForPeers } from '../../common/listen-node.ts'
import { nodeNet } from '../../common/net-node.ts'
import type { MutualTls } from '../../common/tls.ts'
import { selfSigned } from '../self-signed.ts'

/** Node's own sockets: who is let in to where other nodes dial. */

const PATH = '/v1/peer'
const opened: { close(): Promise<void> }[] = []
const links: Link[] = []

afterEach(async () => {
  for (const link of links.splice(0)) link.terminate()
  for (const listener of opened.splice(0)) await listener.close()
})

async function listen(
  options: Partial<PeerListenerOptions> = {},
): Promise<{ listener: PeerListener; came: Link[]; url: string }> {
  const came: Link[] = []
  const listener = await listenForPeers({
    address: { host: '127.0.0.1', port: 0 },
    path: PATH,
    secret: null,
    tls: null,
    maxFrameBytes: 1_000_000,
    accept: link => {
      links.push(link)
      came.push(link)
    },
    ...options,
  })
  opened.push(listener)
  const scheme = options.tls ? 'wss' : 'ws'
  return { listener, came, url: `${scheme}://127.0.0.1:${listener.address.port}${PATH}` }
}

/** The link, or the code of the refusal. */
async function dial(url: string, options: Partial<DialOptions> = {}): Promise<Link | string> {
  try {
    const link = await nodeNet().dial(url, {
      maxFrameBytes: 1_000_000,
      connectTimeoutMs: 5_000,
      unmasked: true,
      ...options,
    })
    links.push(link)
    return link
  } catch (error) {
    return isTributaryError(error) ? error.code : String(error)
  }
}

function nextMessage(link: Link): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    link.handle({ message: resolve, drain: () => {}, close: () => reject(new Error('closed')) })
  })
}

/** A certificate that is its own authority. */
function identity(): MutualTls {
  const { cert, key } = selfSigned()
  return { certPem: cert, keyPem: key, caPem: cert }
}

async function talks(link: Link | string, came: Link[]): Promise<void> {
  if (typeof link === 'string') throw new Error(link)
  const [there] = came
  if (there === undefined) throw new Error('nobody came')
  const bytes = new Uint8Array(70_000).map((_, index) => index)
  const arrived = nextMessage(there)
  link.send(bytes)
  expect(Buffer.from(await arrived).equals(bytes)).toBe(true)
  const back = nextMessage(link)
  there.send(bytes.subarray(0, 10))
  expect(Buffer.from(await back).equals(bytes.subarray(0, 10))).toBe(true)
}

describe('where other nodes dial', () => {
  test('links carry messages both ways, with masks and without', async () => {
    const { came, url } = await listen()
    await talks(await dial(url), came)
    came.length = 0
    await talks(await dial(url, { unmasked: false }), came)
  })

  test('what came before anybody handles a link is told in order, and not before handle has returned', async () => {
    const { came, url } = await listen()
    const link = await dial(url)
    const [there] = came
    if (typeof link === 'string' || there === undefined) throw new Error('no link')
    const closed = new Promise(resolve =>
      there.handle({ message: () => {}, drain: () => {}, close: resolve }),
    )
    for (const byte of [1, 2]) there.send(Uint8Array.of(byte))
    there.close(1000, 'done')
    await closed
    const told: (number | string | undefined)[] = []
    await new Promise<void>(resolve => {
      link.handle({
        message: data => told.push(data[0]),
        drain: () => {},
        close: ({ reason }) => {
          told.push(reason)
          resolve()
        },
      })
      told.push('handled')
    })
    expect(told).toEqual(['handled', 1, 2, 'done'])
  })

  test('the secret is asked for, and nothing listens once it is closed', async () => {
    const { listener, came, url } = await listen({ secret: 's3cret' })
    expect(await dial(url)).toBe('unauthorized')
    expect(await dial(url, { token: 's3cre' })).toBe('unauthorized')
    expect(await dial(url.replace(PATH, '/v1/other'), { token: 's3cret' })).toBe('not_available')
    expect(came).toEqual([])
    await talks(await dial(url, { token: 's3cret' }), came)
    for (const link of links.splice(0)) link.terminate()
    await listener.close()
    const refused: unknown = await nodeNet()
      .dial(url, { maxFrameBytes: 1_000, connectTimeoutMs: 5_000 })
      .catch((error: unknown) => error)
    expect(refused).toMatchObject({ code: 'not_available', cause: { code: 'ECONNREFUSED' } })
  })

  test('pages in a browser of this machine, and plain HTTP, are turned away', async () => {
    const { listener, came } = await listen()
    const status = (headers: Record<string, string>) =>
      new Promise<number>((resolve, reject) => {
        const options = { port: listener.address.port, host: '127.0.0.1', path: PATH, headers }
        request(options, response => resolve(response.statusCode ?? 0))
          .on('error', reject)
          .end()
      })
    const upgrade = {
      connection: 'Upgrade',
      upgrade: 'websocket',
      'sec-websocket-version': '13',
      'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
    }
    expect(await status({ ...upgrade, origin: 'http://evil.example' })).toBe(403)
    expect(await status({})).toBe(426)
    expect(came).toEqual([])
  })

  test('with mutual TLS both ends must show a certificate of the authority', async () => {
    const tls = identity()
    const { came, url } = await listen({ tls })
    const { certPem, keyPem, caPem } = tls
    expect(await dial(url)).toBe('not_available')
    expect(await dial(url, { caPem })).toBe('not_available')
    const other = identity()
    expect(await dial(url, { caPem, identity: other })).toBe('not_available')
    expect(await dial(url, { caPem: other.caPem, identity: { certPem, keyPem } })).toBe('not_available')
    expect(await dial(url.replace('wss', 'ws'))).toBe('not_available')
    expect(came).toEqual([])
    await talks(await dial(url, { caPem, identity: { certPem, keyPem } }), came)
  })

  test('beyond loopback one of the two is asked for by name, and a port that is taken is told', async () => {
    const open = await listen({ address: { host: '0.0.0.0', port: 0 } }).catch((error: unknown) => error)
    expect(open).toMatchObject({ code: 'config_invalid' })
    expect(String(open)).toMatch(/--peer-listen.*--peer-secret-file.*peerTls/)
    const { listener } = await listen({ address: { host: '0.0.0.0', port: 0 }, secret: 'x' })
    const taken = await listen({ address: listener.address, secret: 'x' }).catch((error: unknown) => error)
    expect(taken).toMatchObject({ code: 'port_in_use', details: { flag: '--peer-listen' } })
  })
})
