package podspec

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
)

// OptionsFor are the options for the update of a template: what old has wrong
// may stay wrong.
func OptionsFor(old *v1.PodTemplateSpec) Options {
	if old == nil {
		return Options{}
	}
	return optionsFor(&old.Spec, old.Annotations)
}

// OptionsForPod are the options for the update of a pod; old is nil on create.
func OptionsForPod(old *v1.Pod) Options {
	var opts Options
	if old != nil {
		opts = optionsFor(&old.Spec, old.Annotations)
	}
	opts.Pod = true
	return opts
}

func optionsFor(s *v1.PodSpec, annotations map[string]string) Options {
	cost, hasCost := annotations[deletionCost]
	opts := Options{
		BadDeletionCost:   hasCost && !isCost(cost),
		AnySELinuxPolicy:  s.SecurityContext != nil && s.SecurityContext.SELinuxChangePolicy != nil,
		BadUserNamespaces: s.HostUsers != nil && !*s.HostUsers,
	}
	opts.fromAffinity(s.Affinity)
	for i := range s.TopologySpreadConstraints {
		c := &s.TopologySpreadConstraints[i]
		opts.BadSpreadSelector = opts.BadSpreadSelector || len(metavalidation.ValidateLabelSelector(c.LabelSelector, metavalidation.LabelSelectorValidationOptions{}, nil)) > 0
		keys := &validator{}
		keys.checkLabelKeys(c.LabelSelector, c.MatchLabelKeys, nil, nil)
		opts.LegacySpreadKeys = opts.LegacySpreadKeys || len(keys.errs) > 0
	}
	for i := range s.InitContainers {
		for _, p := range s.InitContainers[i].ResizePolicy {
			opts.InitRestartContainer = opts.InitRestartContainer || !IsSidecar(&s.InitContainers[i]) && p.RestartPolicy == v1.RestartContainer
		}
	}
	containers(s, func(c *v1.Container) {
		for _, list := range []v1.ResourceList{c.Resources.Limits, c.Resources.Requests} {
			for name, q := range list {
				opts.BadHugePages = opts.BadHugePages || IsHugePages(name) && !pagesFit(name, q)
			}
		}
	})
	if s.SecurityContext != nil {
		for _, ctl := range s.SecurityContext.Sysctls {
			opts.BadSysctls = opts.BadSysctls || sharesSysctl(s, ctl.Name)
		}
	}
	for i := range s.Volumes {
		opts.BadTokenPath = opts.BadTokenPath || badTokenPath(s.Volumes[i].Projected)
	}
	return opts
}

func badTokenPath(p *v1.ProjectedVolumeSource) bool {
	if p == nil {
		return false
	}
	v := &validator{}
	for i := range p.Sources {
		if t := p.Sources[i].ServiceAccountToken; t != nil {
			v.fileInVolume(t.Path, nil)
		}
	}
	return len(v.errs) > 0
}

// hasBadValues reports whether a selector has values no label can have.
func hasBadValues(s *v1.NodeSelector) bool {
	return slices.ContainsFunc(s.NodeSelectorTerms, func(t v1.NodeSelectorTerm) bool {
		return slices.ContainsFunc(t.MatchExpressions, func(r v1.NodeSelectorRequirement) bool {
			return slices.ContainsFunc(r.Values, func(value string) bool { return len(validation.IsValidLabelValue(value)) > 0 })
		})
	})
}

func (o *Options) fromAffinity(a *v1.Affinity) {
	if a == nil {
		return
	}
	if a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		o.BadNodeAffinityValues = hasBadValues(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
	}
	selectors := func(required []v1.PodAffinityTerm, preferred []v1.WeightedPodAffinityTerm) {
		for i := range required {
			o.fromSelectors(required[i].LabelSelector, required[i].NamespaceSelector)
		}
		for i := range preferred {
			o.fromSelectors(preferred[i].PodAffinityTerm.LabelSelector, preferred[i].PodAffinityTerm.NamespaceSelector)
		}
	}
	if p := a.PodAffinity; p != nil {
		selectors(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		selectors(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func (o *Options) fromSelectors(list ...*metav1.LabelSelector) {
	for _, s := range list {
		o.BadSelectorValues = o.BadSelectorValues || metavalidation.LabelSelectorHasInvalidLabelValue(s)
	}
}

// DropDisabled removes the fields of features that are off by default in this
// version: the API takes them and does not keep them.
func DropDisabled(s *v1.PodSpec) {
	s.SchedulingGroup = nil
	for i := range s.Volumes {
		if p := s.Volumes[i].Projected; p != nil {
			for k := range p.Sources {
				p.Sources[k].ClusterTrustBundle = nil
				p.Sources[k].PodCertificate = nil
			}
		}
	}
	containers(s, func(c *v1.Container) {
		if c.Lifecycle == nil || c.Lifecycle.StopSignal == nil {
			return
		}
		c.Lifecycle.StopSignal = nil
		if *c.Lifecycle == (v1.Lifecycle{}) {
			c.Lifecycle = nil
		}
	})
}
