package podspec

import (
	"math"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateTemplate lists what is wrong with a pod template at path.
func ValidateTemplate(t *v1.PodTemplateSpec, path *field.Path, opts Options) field.ErrorList {
	var errs field.ErrorList
	errs = append(errs, metavalidation.ValidateLabels(t.Labels, path.Child("labels"))...)
	errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, path.Child("annotations"))...)
	errs = append(errs, ValidatePodAnnotations(t.Annotations, &t.Spec, path.Child("annotations"), opts)...)
	errs = append(errs, ValidateSpec(&t.Spec, nil, path.Child("spec"), opts)...)
	errs = append(errs, ProfilesMatch(t.Annotations, &t.Spec, path.Child("spec"))...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// ValidateSpec lists what is wrong with a pod spec. meta is that of the pod;
// nil for templates. The order is the API's: clients see it in messages.
func ValidateSpec(s *v1.PodSpec, meta *metav1.ObjectMeta, path *field.Path, opts Options) field.ErrorList {
	v := &validator{opts: opts, spec: s, meta: meta, path: path}
	v.checkVolumes(path.Child("volumes"))
	v.checkResourceClaims(path.Child("resourceClaims"))
	v.checkContainers(path.Child("containers"))
	v.checkInitContainers(path.Child("initContainers"))
	v.checkEphemeralContainers(path.Child("ephemeralContainers"))
	v.checkPodResources(path.Child("resources"))
	v.checkHostNetworkPorts(path.Child("containers"))
	choose(v, path.Child("restartPolicy"), s.RestartPolicy, v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever)
	choose(v, path.Child("dnsPolicy"), s.DNSPolicy, v1.DNSClusterFirstWithHostNet, v1.DNSClusterFirst, v1.DNSDefault, v1.DNSNone)
	v.add(metavalidation.ValidateLabels(s.NodeSelector, path.Child("nodeSelector"))...)
	v.checkPodSecurity(s.SecurityContext, path.Child("securityContext"))
	v.checkAffinity(s.Affinity, path.Child("affinity"))
	v.checkDNSConfig(path.Child("dnsConfig"))
	v.checkGates()
	v.checkTopologySpread(path.Child("topologySpreadConstraints"))
	v.checkHostProcess()
	v.checkHostUsers()
	v.checkHostnameOverride(path.Child("hostnameOverride"))
	v.checkNames()
	v.checkTolerations(s.Tolerations, path.Child("tolerations"))
	v.checkHostAliases(path.Child("hostAliases"))
	v.checkClasses()
	if s.Overhead != nil {
		v.checkRequirements(&v1.ResourceRequirements{Limits: s.Overhead}, containerResource, path.Child("overhead"))
	}
	v.checkOS(path.Child("os"))
	v.checkFileKeyVolumes()
	return v.errs
}

// Options loosen validation for objects that were stored under older rules.
// The zero value is what new objects must meet.
type Options struct {
	// Pod: the spec is of a pod, not of a template.
	Pod bool
	// SkipTemplate leaves the template alone: the stored one is invalid already.
	SkipTemplate bool
	// The rest tolerates what an object in the store already has.
	BadSelectorValues     bool // label values in selectors that no label can have
	BadNodeAffinityValues bool // the same in required node affinity
	BadSpreadSelector     bool // an invalid selector in a topology spread constraint
	BadHugePages          bool // amounts that are no multiple of the page size
	BadTokenPath          bool // a projected token outside its volume
	BadSysctls            bool // namespaced sysctls with host namespaces
	BadDeletionCost       bool
	BadUserNamespaces     bool // block devices with user namespaces
	AnySELinuxPolicy      bool
	LegacySpreadKeys      bool // matchLabelKeys that are in the selector too
	InitRestartContainer  bool // resize policy RestartContainer on init containers
}

// validator collects the errors of one spec.
type validator struct {
	errs    field.ErrorList
	opts    Options
	spec    *v1.PodSpec
	meta    *metav1.ObjectMeta // nil for templates
	path    *field.Path        // of spec
	volumes map[string]*v1.VolumeSource
	claims  []string // names in spec.resourceClaims, sorted
}

func (v *validator) add(errs ...*field.Error) { v.errs = append(v.errs, errs...) }

func (v *validator) required(path *field.Path, detail string) { v.add(field.Required(path, detail)) }

func (v *validator) invalid(path *field.Path, value any, detail string) {
	v.add(field.Invalid(path, value, detail))
}

func (v *validator) forbidden(path *field.Path, detail string) { v.add(field.Forbidden(path, detail)) }

// messages adds an error per message of a check from apimachinery.
func (v *validator) messages(path *field.Path, value any, messages []string) {
	for _, msg := range messages {
		v.invalid(path, value, msg)
	}
}

// need demands a text.
func (v *validator) need(path *field.Path, text string) bool {
	if text == "" {
		v.required(path, "")
	}
	return text != ""
}

func (v *validator) label(path *field.Path, value string) {
	v.messages(path, value, validation.IsDNS1123Label(value))
}

func (v *validator) subdomain(path *field.Path, value string) {
	v.messages(path, value, validation.IsDNS1123Subdomain(value))
}

func (v *validator) qualified(path *field.Path, value string) {
	v.messages(path, value, validation.IsQualifiedName(value))
}

func (v *validator) notNegative(path *field.Path, n int64) {
	v.add(apivalidation.ValidateNonnegativeField(n, path)...)
}

// positive demands a number of at least 1.
func (v *validator) positive(path *field.Path, n int64) {
	if n <= 0 {
		v.invalid(path, n, "must be greater than zero")
	}
}

// ip demands an address in canonical form.
func (v *validator) ip(path *field.Path, value string) {
	v.add(validation.IsValidIPForLegacyField(path, value, true, nil)...)
}

// oneOf demands one of a few values, which are listed in order.
func oneOf[T ~string](v *validator, path *field.Path, value T, allowed ...T) {
	if !slices.Contains(allowed, value) {
		v.add(field.NotSupported(path, value, allowed))
	}
}

// choose is oneOf for fields that must have a value.
func choose[T ~string](v *validator, path *field.Path, value T, allowed ...T) {
	if value == "" {
		v.required(path, "")
		return
	}
	oneOf(v, path, value, allowed...)
}

// eachContainer calls visit with all containers in the API's order and where
// they are.
func (v *validator) eachContainer(visit func(c *v1.Container, path *field.Path)) {
	EachContainer(v.spec, v.path, visit)
}

// EachContainer calls visit with the init containers, containers and ephemeral
// containers of the spec at path.
func EachContainer(s *v1.PodSpec, path *field.Path, visit func(c *v1.Container, path *field.Path)) {
	for i := range s.InitContainers {
		visit(&s.InitContainers[i], path.Child("initContainers").Index(i))
	}
	for i := range s.Containers {
		visit(&s.Containers[i], path.Child("containers").Index(i))
	}
	for i := range s.EphemeralContainers {
		visit((*v1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon), path.Child("ephemeralContainers").Index(i))
	}
}

func (v *validator) checkHostNetworkPorts(path *field.Path) {
	if !v.spec.HostNetwork {
		return
	}
	for i := range v.spec.Containers {
		for k, port := range v.spec.Containers[i].Ports {
			if (v.opts.Pod || port.HostPort != 0) && port.HostPort != port.ContainerPort {
				v.invalid(path.Index(i).Child("ports").Index(k).Child("hostPort"), port.HostPort, "must match `containerPort` when `hostNetwork` is true")
			}
		}
	}
}

func (v *validator) checkDNSConfig(path *field.Path) {
	const maxNameservers, maxSearches, maxSearchLength = 3, 32, 2048
	c := v.spec.DNSConfig
	if v.spec.DNSPolicy == v1.DNSNone {
		if c == nil {
			v.required(path, "must provide `dnsConfig` when `dnsPolicy` is None")
			return
		}
		if len(c.Nameservers) == 0 {
			v.required(path.Child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None")
			return
		}
	}
	if c == nil {
		return
	}
	if len(c.Nameservers) > maxNameservers {
		v.invalid(path.Child("nameservers"), c.Nameservers, "must not have more than 3 nameservers")
	}
	for i, ns := range c.Nameservers {
		v.ip(path.Child("nameservers").Index(i), ns)
	}
	if len(c.Searches) > maxSearches {
		v.invalid(path.Child("searches"), c.Searches, "must not have more than 32 search paths")
	}
	if len(strings.Join(c.Searches, " ")) > maxSearchLength {
		v.invalid(path.Child("searches"), c.Searches, "must not have more than 2048 characters (including spaces) in the search list")
	}
	for i, search := range c.Searches {
		if search == "." {
			continue
		}
		search = strings.TrimSuffix(search, ".")
		v.messages(path.Child("searches").Index(i), search, validation.IsDNS1123SubdomainWithUnderscore(search))
	}
	for i, option := range c.Options {
		if option.Name == "" {
			v.required(path.Child("options").Index(i), "must not be empty")
		}
	}
}

func (v *validator) checkGates() {
	for i, gate := range v.spec.ReadinessGates {
		v.qualified(v.path.Child("readinessGates").Index(i).Child("conditionType"), string(gate.ConditionType))
	}
	seen := make(map[string]bool)
	for i, gate := range v.spec.SchedulingGates {
		path := v.path.Child("schedulingGates").Index(i)
		v.qualified(path, gate.Name)
		if seen[gate.Name] {
			v.add(field.Duplicate(path, gate.Name))
		}
		seen[gate.Name] = true
	}
}

func (v *validator) checkHostUsers() {
	s := v.spec
	if s.HostUsers == nil || *s.HostUsers {
		return
	}
	const detail = "when `hostUsers` is false"
	if s.HostNetwork {
		v.forbidden(v.path.Child("hostNetwork"), detail)
	}
	if s.HostPID {
		v.forbidden(v.path.Child("HostPID"), detail)
	}
	if s.HostIPC {
		v.forbidden(v.path.Child("HostIPC"), detail)
	}
	if v.opts.BadUserNamespaces {
		return
	}
	v.eachContainer(func(c *v1.Container, path *field.Path) {
		if len(c.VolumeDevices) > 0 {
			v.forbidden(path.Child("volumeDevices"), detail)
		}
	})
}

func (v *validator) checkHostnameOverride(path *field.Path) {
	s := v.spec
	if s.HostnameOverride == nil {
		return
	}
	if s.SetHostnameAsFQDN != nil && *s.SetHostnameAsFQDN {
		v.forbidden(path, "may not be specified when setHostnameAsFQDN is true")
	}
	if s.HostNetwork {
		v.forbidden(path, "may not be specified when hostNetwork is true")
	}
	if len(*s.HostnameOverride) > 64 {
		v.add(field.TooLong(path, "", 64))
	}
	v.subdomain(path, *s.HostnameOverride)
}

// checkNames checks the names of other objects and of the pod on the network.
func (v *validator) checkNames() {
	s := v.spec
	if s.ServiceAccountName != "" {
		v.subdomain(v.path.Child("serviceAccountName"), s.ServiceAccountName)
	}
	if s.NodeName != "" {
		v.subdomain(v.path.Child("nodeName"), s.NodeName)
	}
	if n := s.ActiveDeadlineSeconds; n != nil && (*n < 1 || *n > math.MaxInt32) {
		v.invalid(v.path.Child("activeDeadlineSeconds"), *n, validation.InclusiveRangeError(1, math.MaxInt32))
	}
	if s.Hostname != "" {
		v.label(v.path.Child("hostname"), s.Hostname)
	}
	if s.Subdomain != "" {
		v.label(v.path.Child("subdomain"), s.Subdomain)
	}
}

func (v *validator) checkHostAliases(path *field.Path) {
	for i, alias := range v.spec.HostAliases {
		v.ip(path.Index(i).Child("ip"), alias.IP)
		for k, name := range alias.Hostnames {
			v.subdomain(path.Index(i).Child("hostnames").Index(k), name)
		}
	}
}

func (v *validator) checkClasses() {
	s := v.spec
	if s.PriorityClassName != "" {
		v.subdomain(v.path.Child("priorityClassName"), s.PriorityClassName)
	}
	if s.RuntimeClassName != nil {
		v.subdomain(v.path.Child("runtimeClassName"), *s.RuntimeClassName)
	}
	if s.PreemptionPolicy != nil {
		choose(v, v.path.Child("preemptionPolicy"), *s.PreemptionPolicy, v1.PreemptLowerPriority, v1.PreemptNever)
	}
}

// negative reports whether a quantity is below zero.
func negative(q resource.Quantity) bool { return q.Sign() < 0 }
