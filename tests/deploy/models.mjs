// Checks custom resources (a JSON list on standard input) against the schemas of the versions in package-lock.json: one
// line for each that does not fit.
import { readFileSync } from "node:fs";

const packages = { "keda.sh": "keda", "monitoring.coreos.com": "prometheus-operator" };

for (const resource of JSON.parse(readFileSync(0, "utf8"))) {
  const [group, version] = resource.apiVersion.split("/");
  const models = await import(`@kubernetes-models/${packages[group]}/${group}/${version}`);
  try {
    new models[resource.kind](resource).validate();
  } catch (unfit) {
    console.log(`${resource.kind} ${resource.metadata.name}: ${unfit.message}`);
  }
}
