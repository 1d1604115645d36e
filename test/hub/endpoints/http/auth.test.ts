import http from 'node:http'
import { afterEach, describe, expect, it } from 'vitest'
import { isTributaryError } from '../../../../common/errors.ts'
import type { Served } from './serve.ts'
import { closeServed, serve } from './serve.ts'

afterEach(closeServed)

/** fetch chooses Host itself, so this asks by hand. */
function get(
  hub: Served,
  path: string,
  headers: Record<string, string>,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const request = http.get({ host: '127.0.0.1', port: hub.port, path, headers }, response => {
      let text = ''
      response.on('data', chunk => {
        text += String(chunk)
      })
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }))
    })
    request.on('error', reject)
  })
}

describe('a hub with tokens', () => {
  const paths = ['/', '/v1/topics', '/v1/edges', '/metrics', '/v1/topics/t/stream', '/nowhere', '/v1/uplink']

  it.each(paths)('does not answer %s without one of them', async path => {
    const hub = await serve({ tokens: ['first', 'second'] })
    for (const authorization of [
      undefined,
      'Bearer',
      'Bearer wrong',
      'Bearer firs',
      'Basic first',
      'Bearer first second',
    ]) {
      const headers = authorization === undefined ? {} : { authorization }
      const answer = await hub.call('GET', path, undefined, headers)
      expect([answer.status, answer.json.error.code]).toEqual([401, 'unauthorized'])
      expect(answer.json.error.message).toContain('--token-file')
      expect(answer.headers.get('www-authenticate')).toBe('Bearer')
    }
  })

  it('answers with any of them, and health without', async () => {
    const hub = await serve({ tokens: ['first', 'second'] })
    for (const token of ['first', 'second']) {
      expect(
        (await hub.call('GET', '/v1/topics', undefined, { authorization: `Bearer ${token}` })).status,
      ).toBe(200)
      expect(
        (await hub.call('GET', '/metrics', undefined, { authorization: `bearer ${token}` })).status,
      ).toBe(200)
    }
    expect((await hub.call('GET', '/healthz')).status).toBe(200)
    expect((await hub.call('GET', '/readyz')).status).toBe(200)
    expect((await hub.call('HEAD', '/readyz')).status).toBe(200)
  })

  it('does not care which web page or host name its clients use', async () => {
    const hub = await serve({ tokens: ['first'] })
    const headers = { authorization: 'Bearer first', origin: 'https://console.example', host: 'hub.example' }
    expect((await get(hub, '/v1/topics', headers)).status).toBe(200)
  })

  it('refuses before it reads a body', async () => {
    const hub = await serve({ tokens: ['first'], limits: { maxBusyBytes: 1 } })
    const answer = await hub.call('POST', '/v1/topics/t/records', {
      records: [{ value: 'x'.repeat(100_000) }],
    })
    expect(answer.status).toBe(401)
  })
})

describe('a hub without tokens', () => {
  it('is not to be used by web pages of other sites', async () => {
    const hub = await serve()
    const host = `127.0.0.1:${hub.port}`
    expect((await get(hub, '/v1/topics', { origin: 'https://evil.example' })).status).toBe(401)
    expect((await get(hub, '/v1/topics', { origin: 'null' })).status).toBe(401)
    expect((await get(hub, '/v1/topics', { origin: `http://${host}`, host })).status).toBe(200)
    const rebound = await get(hub, '/v1/topics', { host: `evil.example:${hub.port}` })
    expect(rebound.status).toBe(401)
    expect(rebound.text).toContain('for this machine alone')
    expect((await get(hub, '/v1/topics', { host: 'localhost' })).status).toBe(200)
    expect((await get(hub, '/v1/topics', { host: `[::1]:${hub.port}` })).status).toBe(200)
  })

  it('is reached by any name where it listens beyond loopback by choice', async () => {
    const hub = await serve({ host: '0.0.0.0', allowAnonymous: true })
    expect((await get(hub, '/v1/topics', { host: 'hub.example' })).status).toBe(200)
  })
})

describe('listening beyond loopback', () => {
  async function refusal(host: string): Promise<string> {
    try {
      await serve({ host })
    } catch (error) {
      if (isTributaryError(error, 'config_invalid')) return error.message
      throw error
    }
    return 'listens'
  }

  it('needs tokens or the flag that says otherwise', async () => {
    for (const host of ['0.0.0.0', '::', 'hub.example']) {
      expect(await refusal(host)).toContain('--token-file FILE, or say --allow-anonymous')
    }
    expect(await refusal('localhost')).toBe('listens')
    expect((await serve({ host: '0.0.0.0', tokens: ['t'] })).port).toBeGreaterThan(0)
  })
})
