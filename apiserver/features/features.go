// Package features says what of Kubernetes' API a server serves, by two flags of kube-apiserver: --feature-gates (gates.go) and
// --runtime-config (apis.go). Both are refused with its words. What it would do and Skiff does not is refused too: a flag that
// is taken is one that is obeyed.
package features

import (
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/pflag"
	"k8s.io/component-base/cli/flag"
)

// Config is what the flags say. The zero value is the default of Kubernetes.
type Config struct {
	gates map[string][]string // by component
	apis  flag.ConfigurationMap
}

// AddFlags adds the flags of c.
func (c *Config) AddFlags(flags *pflag.FlagSet) {
	c.apis = make(flag.ConfigurationMap)
	flags.Var(flag.NewColonSeparatedMultimapStringStringAllowDefaultEmptyKey(&c.gates), "feature-gates", "pairs NAME=true|false of Kubernetes' feature gates; Skiff acts on "+acted())
	flags.Var(&c.apis, "runtime-config", "pairs KEY=true|false: which APIs are served; a key is api/all, api/ga, api/beta, GROUP/VERSION or GROUP/VERSION/RESOURCE")
}

// OfGates is what --feature-gates says that has gates by their names, and nothing else.
func OfGates(gates map[string]bool) Config {
	var pairs []string
	for _, gate := range slices.Sorted(maps.Keys(gates)) {
		pairs = append(pairs, gate+"="+strconv.FormatBool(gates[gate]))
	}
	return Config{gates: map[string][]string{"": pairs}}
}
