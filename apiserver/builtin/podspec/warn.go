package podspec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// WarnTemplate lists what is accepted in a template at path but should be
// changed. old is nil on create.
func WarnTemplate(t, _ *v1.PodTemplateSpec, path *field.Path) []string {
	w := &warner{path: path, spec: &t.Spec, meta: &t.ObjectMeta}
	return w.all()
}

// WarnPod lists what is accepted in a new pod but should be changed.
func WarnPod(p *v1.Pod) []string {
	w := &warner{spec: &p.Spec, meta: &p.ObjectMeta}
	return w.all()
}

// WarnName tells that the name of a workload which is no DNS label makes odd
// host names of its pods.
func WarnName(name string) []string {
	msgs := validation.IsDNS1123Label(name)
	if len(msgs) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", msgs)}
}

// DeprecatedNodeLabels are labels of nodes that should not be selected by any
// more, with what to say about them.
var DeprecatedNodeLabels = map[string]string{
	"beta.kubernetes.io/arch":                       `deprecated since v1.14; use "kubernetes.io/arch" instead`,
	"beta.kubernetes.io/os":                         `deprecated since v1.14; use "kubernetes.io/os" instead`,
	"failure-domain.beta.kubernetes.io/region":      `deprecated since v1.17; use "topology.kubernetes.io/region" instead`,
	"failure-domain.beta.kubernetes.io/zone":        `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
	"beta.kubernetes.io/instance-type":              `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`,
	"app.kubernetes.io/created-by":                  `deprecated since v1.9`,
	"scheduler.alpha.kubernetes.io/preferAvoidPods": `deprecated since v1.22; use Taints and Tolerations instead`,
	"node-role.kubernetes.io/master":                `use "node-role.kubernetes.io/control-plane" instead`,
}

// deprecatedAnnotations are annotations that do nothing any more.
var deprecatedAnnotations = []struct{ key, message string }{
	{"scheduler.alpha.kubernetes.io/critical-pod", `non-functional in v1.16+; use the "priorityClassName" field instead`},
	{"security.alpha.kubernetes.io/sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
	{"security.alpha.kubernetes.io/unsafe-sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
}

// deprecatedVolumes are volume types whose drivers are gone or going.
var deprecatedVolumes = []struct {
	name, message string
	present       func(s *v1.VolumeSource) bool
}{
	{"photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+", func(s *v1.VolumeSource) bool { return s.PhotonPersistentDisk != nil }},
	{"gitRepo", "deprecated in v1.11, and disabled by default in v1.33+", func(s *v1.VolumeSource) bool { return s.GitRepo != nil }},
	{"scaleIO", "deprecated in v1.16, non-functional in v1.22+", func(s *v1.VolumeSource) bool { return s.ScaleIO != nil }},
	{"flocker", "deprecated in v1.22, non-functional in v1.25+", func(s *v1.VolumeSource) bool { return s.Flocker != nil }},
	{"storageOS", "deprecated in v1.22, non-functional in v1.25+", func(s *v1.VolumeSource) bool { return s.StorageOS != nil }},
	{"quobyte", "deprecated in v1.22, non-functional in v1.25+", func(s *v1.VolumeSource) bool { return s.Quobyte != nil }},
	{"glusterfs", "deprecated in v1.25, non-functional in v1.26+", func(s *v1.VolumeSource) bool { return s.Glusterfs != nil }},
	{"cephfs", "deprecated in v1.28, non-functional in v1.31+", func(s *v1.VolumeSource) bool { return s.CephFS != nil }},
	{"rbd", "deprecated in v1.28, non-functional in v1.31+", func(s *v1.VolumeSource) bool { return s.RBD != nil }},
}

// warner collects the warnings about one pod or template; path is nil for pods.
type warner struct {
	warnings []string
	path     *field.Path
	spec     *v1.PodSpec
	meta     *metav1.ObjectMeta
}

func (w *warner) warn(path *field.Path, message string) {
	w.warnings = append(w.warnings, path.String()+": "+message)
}

func (w *warner) in(names ...string) *field.Path {
	return w.path.Child("spec", names...)
}

func (w *warner) annotation(key string) *field.Path {
	return w.path.Child("metadata", "annotations").Key(key)
}

func (w *warner) each(visit func(c *v1.Container, path *field.Path)) {
	EachContainer(w.spec, w.in(), visit)
}

func (w *warner) all() []string {
	w.nodeLabels()
	w.topologySpread()
	for _, a := range deprecatedAnnotations {
		if hasKey(w.meta.Annotations, a.key) {
			w.warn(w.annotation(a.key), a.message)
		}
	}
	w.volumes()
	w.duplicates()
	for _, name := range []v1.ResourceName{v1.ResourceMemory, v1.ResourceEphemeralStorage} {
		w.fraction(w.spec.Overhead, name, w.in("overhead"))
	}
	w.seccomp()
	w.each(w.container)
	w.ports()
	w.portNames()
	if n := w.spec.TerminationGracePeriodSeconds; n != nil && *n < 0 {
		w.warn(w.in("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	w.podAffinity()
	w.addresses()
	return w.warnings
}

func (w *warner) nodeLabels() {
	for _, key := range slices.Sorted(maps.Keys(w.spec.NodeSelector)) {
		if message, ok := DeprecatedNodeLabels[key]; ok {
			w.warn(w.in("nodeSelector").Key(key), message)
		}
	}
	if w.spec.Affinity == nil || w.spec.Affinity.NodeAffinity == nil {
		return
	}
	n, path := w.spec.Affinity.NodeAffinity, w.in("affinity", "nodeAffinity")
	if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for i := range n.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			w.nodeTerm(&n.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[i], false,
				path.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms").Index(i))
		}
	}
	for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
		w.nodeTerm(&n.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference, true,
			path.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("preference"))
	}
}

// WarnNodeSelector lists what is doubtful about a selector of nodes at path.
func WarnNodeSelector(s *v1.NodeSelector, path *field.Path) []string {
	w := &warner{}
	for i := range s.NodeSelectorTerms {
		w.nodeTerm(&s.NodeSelectorTerms[i], false, path.Child("nodeSelectorTerms").Index(i))
	}
	return w.warnings
}

// nodeTerm warns of labels that are going, and of values no label can have
// where those are accepted.
func (w *warner) nodeTerm(t *v1.NodeSelectorTerm, checkValues bool, path *field.Path) {
	for i, e := range t.MatchExpressions {
		at := path.Child("matchExpressions").Index(i)
		if message, ok := DeprecatedNodeLabels[e.Key]; ok {
			w.warn(at.Child("key"), e.Key+" is "+message)
		}
		if !checkValues {
			continue
		}
		for k, value := range e.Values {
			for _, msg := range validation.IsValidLabelValue(value) {
				w.warn(at.Child("values").Index(k), value+" is invalid, "+msg)
			}
		}
	}
}

const matchesNothing = "a null labelSelector results in matching no pod"

func (w *warner) topologySpread() {
	for i, c := range w.spec.TopologySpreadConstraints {
		path := w.in("topologySpreadConstraints").Index(i)
		if message, ok := DeprecatedNodeLabels[c.TopologyKey]; ok {
			w.warn(path.Child("topologyKey"), c.TopologyKey+" is "+message)
		}
		if c.LabelSelector == nil {
			w.warn(path.Child("labelSelector"), matchesNothing)
		}
	}
}

func (w *warner) volumes() {
	for i := range w.spec.Volumes {
		s, path := &w.spec.Volumes[i].VolumeSource, w.in("volumes").Index(i)
		for _, d := range deprecatedVolumes {
			if d.present(s) {
				w.warn(path.Child(d.name), d.message)
			}
		}
		if s.Ephemeral != nil && s.Ephemeral.VolumeClaimTemplate != nil {
			w.warnings = append(w.warnings, WarnClaimSpec(&s.Ephemeral.VolumeClaimTemplate.Spec, path.Child("ephemeral", "volumeClaimTemplate", "spec"))...)
		}
	}
	for i := range w.spec.Volumes {
		w.warnings = append(w.warnings, overlappingFiles(&w.spec.Volumes[i])...)
	}
}

func (w *warner) duplicates() {
	seen := make(map[string]bool)
	for i, alias := range w.spec.HostAliases {
		if seen[alias.IP] {
			w.warn(w.in("hostAliases").Index(i).Child("ip"), fmt.Sprintf("duplicate ip %q", alias.IP))
		}
		seen[alias.IP] = true
	}
	clear(seen)
	names := w.in("imagePullSecrets")
	for i, s := range w.spec.ImagePullSecrets {
		if seen[s.Name] {
			w.warn(names.Index(i).Child("name"), fmt.Sprintf("duplicate name %q", s.Name))
		}
		seen[s.Name] = true
	}
	for i, s := range w.spec.ImagePullSecrets {
		if s.Name == "" {
			w.warn(names.Index(i).Child("name"), fmt.Sprintf("invalid empty name %q", s.Name))
		}
	}
}

func (w *warner) fraction(list v1.ResourceList, name v1.ResourceName, path *field.Path) {
	if q, ok := list[name]; ok && q.MilliValue()%1000 != 0 {
		w.warn(path.Key(string(name)), fmt.Sprintf("fractional byte value %q is invalid, must be an integer", q.String()))
	}
}

const useSeccomp = `non-functional in v1.27+; use the "seccompProfile" field instead`

func (w *warner) seccomp() {
	sc := w.spec.SecurityContext
	if (sc == nil || sc.SeccompProfile == nil) && hasKey(w.meta.Annotations, v1.SeccompPodAnnotationKey) {
		w.warn(w.annotation(v1.SeccompPodAnnotationKey), useSeccomp)
	}
}

func (w *warner) container(c *v1.Container, path *field.Path) {
	sc := c.SecurityContext
	if key := v1.SeccompContainerAnnotationKeyPrefix + c.Name; (sc == nil || sc.SeccompProfile == nil) && hasKey(w.meta.Annotations, key) {
		w.warn(w.annotation(key), useSeccomp)
	}
	w.appArmor(c)
	for _, name := range []v1.ResourceName{v1.ResourceMemory, v1.ResourceEphemeralStorage} {
		w.fraction(c.Resources.Limits, name, path.Child("resources", "limits"))
		w.fraction(c.Resources.Requests, name, path.Child("resources", "requests"))
	}
	seen := make(map[string]bool)
	for i, e := range c.Env {
		ref := "$(" + e.Name + ")"
		if seen[e.Name] && (e.ValueFrom != nil || e.Value == ref || !strings.Contains(e.Value, ref)) {
			w.warn(path.Child("env").Index(i), fmt.Sprintf("hides previous definition of %q, which may be dropped when using apply", e.Name))
		}
		seen[e.Name] = true
	}
}

// appArmor warns of an annotation that the fields do not say already. The
// annotation of a pod was copied to the field before it came here.
func (w *warner) appArmor(c *v1.Container) {
	annotation, ok := w.meta.Annotations[appArmor+c.Name]
	if !ok {
		return
	}
	profile := AppArmorProfile(annotation)
	if sc := c.SecurityContext; sc != nil && sc.AppArmorProfile != nil {
		if w.path != nil || !equality.Semantic.DeepEqual(sc.AppArmorProfile, profile) {
			return
		}
	} else if sc := w.spec.SecurityContext; sc != nil && sc.AppArmorProfile != nil && equality.Semantic.DeepEqual(sc.AppArmorProfile, profile) {
		return
	}
	w.warn(w.annotation(appArmor+c.Name), `deprecated since v1.30; use the "appArmorProfile" field instead`)
}

// AppArmorProfile is the profile an annotation asks for; nil if it says nothing
// that can be a profile.
func AppArmorProfile(annotation string) *v1.AppArmorProfile {
	switch annotation {
	case v1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeUnconfined}
	case v1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeRuntimeDefault}
	}
	name, ok := strings.CutPrefix(annotation, v1.DeprecatedAppArmorBetaProfileNamePrefix)
	if !ok || name == "" {
		return nil
	}
	return &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
}

func (w *warner) ports() {
	type place struct {
		path *field.Path
		port v1.ContainerPort
	}
	seen := make(map[string][]place)
	w.each(func(c *v1.Container, path *field.Path) {
		for i, p := range c.Ports {
			at := path.Child("ports").Index(i)
			if p.HostIP != "" && p.HostPort == 0 {
				w.warn(at, fmt.Sprintf("hostIP set without hostPort: %+v", untaggedPort(p)))
			}
			key := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
			for _, other := range seen[key] {
				o := other.port
				switch {
				case p.HostIP == o.HostIP && p.HostPort == o.HostPort:
					w.warn(at, "duplicate port definition with "+other.path.String())
				case p.HostPort == 0 || o.HostPort == 0:
					w.warn(at, "overlapping port definition with "+other.path.String())
				case p.HostPort == o.HostPort && (p.HostIP == "") != (o.HostIP == ""):
					w.warn(at, "dangerously ambiguous port definition with "+other.path.String())
				}
			}
			seen[key] = append(seen[key], place{at, p})
		}
	})
}

// untaggedPort prints as the API's own type does: without a String method.
type untaggedPort struct {
	Name          string
	HostPort      int32
	ContainerPort int32
	Protocol      v1.Protocol
	HostIP        string
}

func (w *warner) portNames() {
	seen := make(map[string]*field.Path)
	w.each(func(c *v1.Container, path *field.Path) {
		for i, p := range c.Ports {
			at := path.Child("ports").Index(i)
			switch first := seen[p.Name]; {
			case p.Name == "":
			case first != nil:
				w.warn(at, fmt.Sprintf("duplicate port name %q with %s, services and probes that select ports by name will use %s", p.Name, first, first))
			default:
				seen[p.Name] = at
			}
		}
	})
}

func (w *warner) podAffinity() {
	a := w.spec.Affinity
	if a == nil {
		return
	}
	terms := func(required []v1.PodAffinityTerm, preferred []v1.WeightedPodAffinityTerm, path *field.Path) {
		for i := range required {
			if required[i].LabelSelector == nil {
				w.warn(path.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i).Child("labelSelector"), matchesNothing)
			}
		}
		for i := range preferred {
			if preferred[i].PodAffinityTerm.LabelSelector == nil {
				w.warn(path.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("podAffinityTerm", "labelSelector"), matchesNothing)
			}
		}
	}
	if p := a.PodAffinity; p != nil {
		terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, w.in("affinity", "podAffinity"))
	}
	if p := a.PodAntiAffinity; p != nil {
		terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, w.in("affinity", "podAntiAffinity"))
	}
}

func (w *warner) addresses() {
	if c := w.spec.DNSConfig; c != nil {
		for i, ns := range c.Nameservers {
			w.warnings = append(w.warnings, validation.GetWarningsForIP(w.in("dnsConfig", "nameservers").Index(i), ns)...)
		}
	}
	for i, alias := range w.spec.HostAliases {
		w.warnings = append(w.warnings, validation.GetWarningsForIP(w.in("hostAliases").Index(i).Child("ip"), alias.IP)...)
	}
}
