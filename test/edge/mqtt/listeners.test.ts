import { once } from 'node:events'
import { connect } from 'node:net'
import { connectAsync } from 'mqtt'
import { afterEach, expect, test } from 'vitest'
import { isTributaryError } from '../../../common/errors.ts'
import { selfSigned } from '../../self-signed.ts'
import type { Edge, EdgeOptions } from './harness.ts'
import { startEdge, until } from './harness.ts'

const edges: Edge[] = []
async function edgeOf(options: EdgeOptions): Promise<Edge> {
  const edge = await startEdge(options)
  edges.push(edge)
  return edge
}

afterEach(async () => {
  for (const edge of edges.splice(0)) await edge.broker.close()
})

const { cert, key } = selfSigned()
const tls = { listen: '127.0.0.1:0', certFile: 'cert', keyFile: 'key' }
const files = { cert: Buffer.from(cert), key: Buffer.from(key) }

test('TLS serves a client that trusts the certificate, beside what is no TLS at all', async () => {
  const edge = await edgeOf({ config: { listen: null, tls }, files })
  const port = edge.broker.tlsAddress?.port ?? 0
  expect(edge.broker.mqttAddress).toBeNull()
  const plain = connect({ host: '127.0.0.1', port })
  plain.on('error', () => {})
  plain.write('no TLS')
  const closed = once(plain, 'close')
  const client = await connectAsync(`mqtts://127.0.0.1:${port}`, { ca: cert })
  const got: string[] = []
  client.on('message', (_, payload) => got.push(`${payload.length}`))
  await client.subscribeAsync('t', { qos: 1 })
  const acks = Array.from({ length: 300 }, (_, index) =>
    client.publishAsync('t', 'x'.repeat(index * 20), { qos: 1 }),
  )
  await Promise.all(acks)
  await until('all messages back', () => got.length === 300)
  expect(got).toEqual(Array.from({ length: 300 }, (_, index) => `${index * 20}`))
  await closed
  await until('the log', () => edge.log.lines.some(line => line.includes('TLS handshake failed')))
  await client.endAsync()
})

test.each([
  [{}, 'mqtt.tls.certFile'],
  [{ cert: files.cert, key: Buffer.from('no key') }, 'mqtt.tls'],
])('a certificate or key that can’t be used is named', async (present, name) => {
  const error = await edgeOf({ config: { tls }, files: present }).catch((reason: unknown) => reason)
  expect(isTributaryError(error, 'config_invalid') && error.message).toContain(name)
})
