package podspec

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (v *validator) checkAffinity(a *v1.Affinity, path *field.Path) {
	if a == nil {
		return
	}
	const required, preferred = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
	if n := a.NodeAffinity; n != nil {
		at := path.Child("nodeAffinity")
		v.checkNodeSelector(n.RequiredDuringSchedulingIgnoredDuringExecution, at.Child(required))
		for i, term := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			v.checkWeight(term.Weight, at.Child(preferred).Index(i))
			v.checkNodeTerm(&term.Preference, true, at.Child(preferred).Index(i).Child("preference"))
		}
	}
	if p := a.PodAffinity; p != nil {
		at := path.Child("podAffinity")
		v.checkPodTerms(p.RequiredDuringSchedulingIgnoredDuringExecution, at.Child(required))
		v.checkWeightedTerms(p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child(preferred))
	}
	if p := a.PodAntiAffinity; p != nil {
		at := path.Child("podAntiAffinity")
		v.checkPodTerms(p.RequiredDuringSchedulingIgnoredDuringExecution, at.Child(required))
		v.checkWeightedTerms(p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child(preferred))
	}
}

func (v *validator) checkWeight(weight int32, path *field.Path) {
	if weight < 1 || weight > 100 {
		v.invalid(path.Child("weight"), weight, "must be in the range 1-100")
	}
}

func (v *validator) checkNodeSelector(s *v1.NodeSelector, path *field.Path) {
	if s == nil {
		return
	}
	at := path.Child("nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		v.required(at, "must have at least one node selector term")
	}
	for i := range s.NodeSelectorTerms {
		v.checkNodeTerm(&s.NodeSelectorTerms[i], v.opts.BadNodeAffinityValues, at.Index(i))
	}
}

// ValidateNodeSelector lists what is wrong with a selector at path; old is what
// it was, or nil, whose values no label can have may stay.
func ValidateNodeSelector(s, old *v1.NodeSelector, path *field.Path) field.ErrorList {
	v := &validator{opts: Options{BadNodeAffinityValues: old != nil && hasBadValues(old)}}
	v.checkNodeSelector(s, path)
	return v.errs
}

// checkNodeTerm checks one term. Values no label can have are tolerated where
// anyValues is true: they only never match.
func (v *validator) checkNodeTerm(t *v1.NodeSelectorTerm, anyValues bool, path *field.Path) {
	for i := range t.MatchExpressions {
		r, at := &t.MatchExpressions[i], path.Child("matchExpressions").Index(i)
		switch values := at.Child("values"); r.Operator {
		case v1.NodeSelectorOpIn, v1.NodeSelectorOpNotIn:
			if len(r.Values) == 0 {
				v.required(values, "must be specified when `operator` is 'In' or 'NotIn'")
			}
		case v1.NodeSelectorOpExists, v1.NodeSelectorOpDoesNotExist:
			if len(r.Values) > 0 {
				v.forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
			}
		case v1.NodeSelectorOpGt, v1.NodeSelectorOpLt:
			if len(r.Values) != 1 {
				v.required(values, "must be specified single value when `operator` is 'Lt' or 'Gt'")
			}
		default:
			v.invalid(at.Child("operator"), r.Operator, "not a valid selector operator")
		}
		v.add(metavalidation.ValidateLabelName(r.Key, at.Child("key"))...)
		if anyValues {
			continue
		}
		for k, value := range r.Values {
			v.messages(at.Child("values").Index(k), value, validation.IsValidLabelValue(value))
		}
	}
	for i := range t.MatchFields {
		v.checkNodeField(&t.MatchFields[i], path.Child("matchFields").Index(i))
	}
}

func (v *validator) checkNodeField(r *v1.NodeSelectorRequirement, path *field.Path) {
	if r.Operator != v1.NodeSelectorOpIn && r.Operator != v1.NodeSelectorOpNotIn {
		v.invalid(path.Child("operator"), r.Operator, "not a valid selector operator")
	} else if len(r.Values) != 1 {
		v.required(path.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector")
	}
	if r.Key != metav1.ObjectNameField {
		v.invalid(path.Child("key"), r.Key, "not a valid field selector key")
		return
	}
	for i, value := range r.Values {
		v.subdomain(path.Child("values").Index(i), value)
	}
}

func (v *validator) checkPodTerms(terms []v1.PodAffinityTerm, path *field.Path) {
	for i := range terms {
		v.checkPodTerm(&terms[i], path.Index(i))
	}
}

func (v *validator) checkWeightedTerms(terms []v1.WeightedPodAffinityTerm, path *field.Path) {
	for i := range terms {
		v.checkWeight(terms[i].Weight, path.Index(i))
		v.checkPodTerm(&terms[i].PodAffinityTerm, path.Index(i).Child("podAffinityTerm"))
	}
}

func (v *validator) checkPodTerm(t *v1.PodAffinityTerm, path *field.Path) {
	selector := metavalidation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: v.opts.BadSelectorValues}
	v.add(metavalidation.ValidateLabelSelector(t.LabelSelector, selector, path.Child("labelSelector"))...)
	v.add(metavalidation.ValidateLabelSelector(t.NamespaceSelector, selector, path.Child("namespaceSelector"))...)
	for _, name := range t.Namespaces {
		v.label(path.Child("namespace"), name)
	}
	v.checkLabelKeys(t.LabelSelector, t.MatchLabelKeys, t.MismatchLabelKeys, path)
	if t.TopologyKey == "" {
		v.required(path.Child("topologyKey"), "can not be empty")
	}
	v.add(metavalidation.ValidateLabelName(t.TopologyKey, path.Child("topologyKey"))...)
}

// checkLabelKeys checks the label keys whose values are added to a selector
// when the pod is created. A key may be in the selector once: that is how it
// looks after it was added.
func (v *validator) checkLabelKeys(s *metav1.LabelSelector, match, mismatch []string, path *field.Path) {
	v.checkKeys(s, match, path.Child("matchLabelKeys"))
	v.checkKeys(s, mismatch, path.Child("mismatchLabelKeys"))
	if s != nil {
		inSelector := make(map[string]bool)
		for key := range s.MatchLabels {
			inSelector[key] = true
		}
		for _, e := range s.MatchExpressions {
			if i := lastIndex(match, e.Key); i >= 0 && inSelector[e.Key] {
				v.invalid(path.Index(i), e.Key, "exists in both matchLabelKeys and labelSelector")
			}
			inSelector[e.Key] = true
		}
	}
	for i, key := range match {
		if slices.Contains(mismatch, key) {
			v.invalid(path.Child("matchLabelKeys").Index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys")
		}
	}
}

func lastIndex(list []string, value string) int {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i] == value {
			return i
		}
	}
	return -1
}

func (v *validator) checkKeys(s *metav1.LabelSelector, keys []string, path *field.Path) {
	if len(keys) == 0 {
		return
	}
	if s == nil {
		v.forbidden(path, "must not be specified when labelSelector is not set")
		return
	}
	for i, key := range keys {
		v.add(metavalidation.ValidateLabelName(key, path.Index(i))...)
	}
}

func (v *validator) checkTopologySpread(path *field.Path) {
	list := v.spec.TopologySpreadConstraints
	for i := range list {
		c, at := &list[i], path.Index(i)
		v.positive(at.Child("maxSkew"), int64(c.MaxSkew))
		if c.TopologyKey == "" {
			v.required(at.Child("topologyKey"), "can not be empty")
		}
		oneOf(v, at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, v1.DoNotSchedule, v1.ScheduleAnyway)
		again := slices.ContainsFunc(list[i+1:], func(other v1.TopologySpreadConstraint) bool {
			return other.TopologyKey == c.TopologyKey && other.WhenUnsatisfiable == c.WhenUnsatisfiable
		})
		if again {
			v.add(field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%s, %s}", c.TopologyKey, c.WhenUnsatisfiable)))
		}
		if n := c.MinDomains; n != nil {
			v.positive(at.Child("minDomains"), int64(*n))
			if c.WhenUnsatisfiable != v1.DoNotSchedule {
				v.invalid(at.Child("minDomains"), n, fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", v1.DoNotSchedule, c.WhenUnsatisfiable))
			}
		}
		v.checkInclusion(c.NodeAffinityPolicy, at.Child("nodeAffinityPolicy"))
		v.checkInclusion(c.NodeTaintsPolicy, at.Child("nodeTaintsPolicy"))
		if v.opts.LegacySpreadKeys {
			v.checkLegacyKeys(c, at.Child("matchLabelKeys"))
		} else {
			v.checkLabelKeys(c.LabelSelector, c.MatchLabelKeys, nil, at)
		}
		if !v.opts.BadSpreadSelector {
			v.add(metavalidation.ValidateLabelSelector(c.LabelSelector, metavalidation.LabelSelectorValidationOptions{}, at.Child("labelSelector"))...)
		}
	}
}

// checkLegacyKeys checks a constraint from before its keys were added to the
// selector.
func (v *validator) checkLegacyKeys(c *v1.TopologySpreadConstraint, path *field.Path) {
	v.checkKeys(c.LabelSelector, c.MatchLabelKeys, path)
	for i, key := range c.MatchLabelKeys {
		if c.LabelSelector == nil {
			return
		}
		inExpressions := slices.ContainsFunc(c.LabelSelector.MatchExpressions, func(r metav1.LabelSelectorRequirement) bool { return r.Key == key })
		if inExpressions || hasKey(c.LabelSelector.MatchLabels, key) {
			v.invalid(path.Index(i), key, "exists in both matchLabelKeys and labelSelector")
		}
	}
}

func (v *validator) checkInclusion(p *v1.NodeInclusionPolicy, path *field.Path) {
	if p != nil {
		oneOf(v, path, *p, v1.NodeInclusionPolicyHonor, v1.NodeInclusionPolicyIgnore)
	}
}

// ValidateTolerations lists what is wrong with tolerations at path.
func ValidateTolerations(list []v1.Toleration, path *field.Path) field.ErrorList {
	v := &validator{}
	v.checkTolerations(list, path)
	return v.errs
}

func (v *validator) checkTolerations(list []v1.Toleration, path *field.Path) {
	for i := range list {
		t, at := &list[i], path.Index(i)
		operator := at.Child("operator")
		if t.Key != "" {
			v.add(metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		} else if t.Operator != v1.TolerationOpExists {
			v.invalid(operator, t.Operator, `operator must be Exists when `+"`key`"+` is empty, which means "match all values and all keys"`)
		}
		if t.TolerationSeconds != nil && t.Effect != v1.TaintEffectNoExecute {
			v.invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
		}
		switch t.Operator {
		case v1.TolerationOpEqual, "":
			if msgs := validation.IsValidLabelValue(t.Value); len(msgs) > 0 {
				v.invalid(operator, t.Value, strings.Join(msgs, ";"))
			}
		case v1.TolerationOpExists:
			if t.Value != "" {
				v.invalid(operator, t.Value, "value must be empty when `operator` is 'Exists'")
			}
		case v1.TolerationOpLt, v1.TolerationOpGt: // known, but off by default
			v.add(field.NotSupported(operator, t.Operator, []v1.TolerationOperator{v1.TolerationOpEqual, v1.TolerationOpExists, v1.TolerationOpLt, v1.TolerationOpGt}))
		default:
			oneOf(v, operator, t.Operator, v1.TolerationOpEqual, v1.TolerationOpExists)
		}
		if t.Effect != "" {
			oneOf(v, at.Child("effect"), t.Effect, v1.TaintEffectNoSchedule, v1.TaintEffectPreferNoSchedule, v1.TaintEffectNoExecute)
		}
	}
}
