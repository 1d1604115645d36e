import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { runScript } from './script.ts'

/** Each file of scripts/ is a script and its transcript at once; `vitest -u` writes them anew, for reading in the diff. */

const FOLDER = new URL('scripts/', import.meta.url).pathname

describe('the consensus core, by script', () => {
  for (const name of readdirSync(FOLDER)) {
    it(name.replace('.txt', '').replaceAll('-', ' '), async () => {
      const path = `${FOLDER}${name}`
      await expect(runScript(readFileSync(path, 'utf8'))).toMatchFileSnapshot(path)
    })
  }
})
