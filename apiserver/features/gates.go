package features

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-base/compatibility"
	"k8s.io/component-base/featuregate"

	"github.com/skiff-k8s/skiff/apiserver/version"
)

// Gate names a feature gate.
type Gate = featuregate.Feature

// Gates that Skiff acts on.
const (
	AllowParsingUserUIDFromCertAuth Gate = "AllowParsingUserUIDFromCertAuth"
	ComponentFlagz                  Gate = "ComponentFlagz"
	ComponentStatusz                Gate = "ComponentStatusz"
	ConstrainedImpersonation        Gate = "ConstrainedImpersonation"
	MutatingAdmissionPolicy         Gate = "MutatingAdmissionPolicy"
	PodTopologyLabelsAdmission      Gate = "PodTopologyLabelsAdmission"
	WatchList                       Gate = "WatchList"
)

var acts = map[Gate]bool{
	"AllAlpha": true, "AllBeta": true, // by the others
	AllowParsingUserUIDFromCertAuth: true, ComponentFlagz: true, ComponentStatusz: true, ConstrainedImpersonation: true, MutatingAdmissionPolicy: true,
	PodTopologyLabelsAdmission: true, WatchList: true,
}

// acted names them for people.
func acted() string {
	var names []string
	for gate := range acts {
		names = append(names, string(gate))
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// otherwise are gates by which Skiff does not do what is Kubernetes' default.
var otherwise = map[Gate]bool{
	"APIServerTracing": false, "KubeletTracing": false,
	"AllowUnsafeMalformedObjectDeletion": true,
	"CPUManagerPolicyOptions":            false, "CPUManagerPolicyBetaOptions": false, "TopologyManagerPolicyOptions": false, "TopologyManagerPolicyBetaOptions": false,
	"ContainerCheckpoint":               false,
	"ExternalServiceAccountTokenSigner": false,
	"GracefulNodeShutdown":              false, "GracefulNodeShutdownBasedOnPodPriority": false, "SystemdWatchdog": false,
	"KubeletPSI":                                       false,
	"KubeletPodResourcesDynamicResources":              false,
	"KubeletPodResourcesGet":                           false,
	"KubeletPodResourcesListUseActivePods":             false,
	"KubeletServiceAccountTokenForCredentialProviders": false,
	"NodeLogQuery":                                     false,
	"NodeSwap":                                         false,
	"ResourceHealthStatus":                             false, "ResourceHealthStatusMessage": false,
	"StructuredAuthenticationConfigurationEgressSelector": false,
	"UnauthenticatedHTTP2DOSMitigation":                   false,
	"UnknownVersionInteroperabilityProxy":                 false,
	"UserNamespacesSupport":                               false,
	"WinDSR":                                              false, "WinOverlay": false, "WindowsGracefulNodeShutdown": false,
}

// gates.txt has the gates that kube-apiserver knows: name, stage, default, and whether that is locked.
//
//go:embed gates.txt
var gatesText string

var known = sync.OnceValue(func() map[Gate]featuregate.FeatureSpec {
	stages := map[string]featuregate.FeatureSpec{"ALPHA": {PreRelease: featuregate.Alpha}, "BETA": {PreRelease: featuregate.Beta}, "DEPRECATED": {PreRelease: featuregate.Deprecated}, "GA": {}}
	all := make(map[Gate]featuregate.FeatureSpec)
	for line := range strings.Lines(gatesText) {
		words := strings.Fields(line)
		spec := stages[words[1]]
		spec.Default, spec.LockToDefault = words[2] == "true", len(words) == 4
		all[Gate(words[0])] = spec
	}
	return all
})

// Gates are feature gates with their values. The zero value has the defaults.
type Gates struct {
	specs map[Gate]featuregate.FeatureSpec
	on    map[Gate]bool
}

// Gates are those that the flag says.
func (c Config) Gates() (Gates, error) {
	if len(c.gates) == 0 {
		return defaults()
	}
	return c.read()
}

// defaults are the gates of all servers that were told nothing of any: to look each up once takes longer than most of
// what a server of a test begins with.
var defaults = sync.OnceValues(Config{}.read)

func (c Config) read() (Gates, error) {
	g := Gates{specs: known(), on: make(map[Gate]bool)}
	set := featuregate.NewVersionedFeatureGate(utilversion.MustParse(version.Kubernetes))
	if err := set.Add(g.specs); err != nil {
		return Gates{}, err
	}
	if len(c.gates[""]) > 0 && len(c.gates[compatibility.DefaultKubeComponent]) > 0 {
		return Gates{}, errors.New("set kube feature gates with default empty prefix or kube: prefix consistently, do not mix use")
	}
	for component, pairs := range c.gates {
		if component != "" && component != compatibility.DefaultKubeComponent {
			return Gates{}, fmt.Errorf("component not registered: %s", component)
		}
		if err := set.Set(strings.Join(pairs, ",")); err != nil {
			return Gates{}, err
		}
	}
	named, refused := c.named(), []string(nil)
	for gate, spec := range g.specs {
		g.on[gate] = set.Enabled(gate)
		does, differs := otherwise[gate]
		switch {
		case acts[gate]:
			continue
		case !differs:
			does = spec.Default
		}
		if (named[gate] || g.on[gate] != spec.Default) && g.on[gate] != does {
			refused = append(refused, fmt.Sprintf("%s=%t", gate, g.on[gate]))
		}
		g.on[gate] = does
	}
	return g, refusal(refused)
}

// named are the gates that the flag names.
func (c Config) named() map[Gate]bool {
	names := make(map[Gate]bool)
	for _, pairs := range c.gates {
		for _, pair := range pairs {
			name, _, _ := strings.Cut(pair, "=")
			names[Gate(strings.TrimSpace(name))] = true
		}
	}
	return names
}

// mostNamed is how many gates an error names: there are hundreds.
const mostNamed = 5

func refusal(refused []string) error {
	if len(refused) == 0 {
		return nil
	}
	slices.Sort(refused)
	more := ""
	if n := len(refused) - mostNamed; n > 0 {
		refused, more = refused[:mostNamed], fmt.Sprintf(" and %d more", n)
	}
	return fmt.Errorf("feature gates that Skiff does not act on cannot have another value than what it does: %s%s", strings.Join(refused, ", "), more)
}

// Enabled reports whether a gate is on. It must be one that is known.
func (g Gates) Enabled(gate Gate) bool {
	if g.on == nil {
		return known()[gate].Default
	}
	return g.on[gate]
}

var info = prometheus.NewDesc("kubernetes_feature_enabled", "[BETA] This metric records the data about the stage and enablement of a k8s feature.", []string{"name", "stage"}, nil)

// Describe is that of a prometheus.Collector.
func (g Gates) Describe(ch chan<- *prometheus.Desc) { ch <- info }

// Collect is that of a prometheus.Collector.
func (g Gates) Collect(ch chan<- prometheus.Metric) {
	for _, gate := range slices.Sorted(maps.Keys(g.on)) {
		value := 0.0
		if g.on[gate] {
			value = 1
		}
		ch <- prometheus.MustNewConstMetric(info, prometheus.GaugeValue, value, string(gate), string(g.specs[gate].PreRelease))
	}
}
