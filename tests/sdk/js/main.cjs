// The AWS SDK for JavaScript, looking for credentials or for the region as an application does.

const { fromNodeProviderChain } = require("@aws-sdk/credential-providers");
const { loadConfig, NODE_REGION_CONFIG_FILE_OPTIONS, NODE_REGION_CONFIG_OPTIONS } = require("@smithy/core/config");

const lookUps = {
  credentials: async () => (await fromNodeProviderChain()()).accessKeyId,
  // What every client of the SDK does that is given no region.
  region: () => loadConfig(NODE_REGION_CONFIG_OPTIONS, NODE_REGION_CONFIG_FILE_OPTIONS)(),
};

async function main() {
  const lookUp = lookUps[process.argv[2]];
  // What the SDK loads when it is first used is part of the start-up: once it looks without asking IMDS.
  process.env.AWS_EC2_METADATA_DISABLED = "true";
  await lookUp().catch(() => {});
  delete process.env.AWS_EC2_METADATA_DISABLED;

  const started = performance.now();
  let found = null;
  let error = null;
  try {
    found = await lookUp();
  } catch (thrown) {
    error = String(thrown);
  }
  const milliseconds = performance.now() - started;
  console.log(JSON.stringify({ found, error, milliseconds }));
}

main();
