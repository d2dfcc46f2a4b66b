package audit

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"sigs.k8s.io/yaml"
)

// levels are how much is written down, least first.
var levels = []auditv1.Level{auditv1.LevelNone, auditv1.LevelMetadata, auditv1.LevelRequest, auditv1.LevelRequestResponse}

// stages are when it is written down.
var stages = []auditv1.Stage{auditv1.StageRequestReceived, auditv1.StageResponseStarted, auditv1.StageResponseComplete, auditv1.StagePanic}

func atLeast(level, wanted auditv1.Level) bool {
	return slices.Index(levels, level) >= slices.Index(levels, wanted)
}

// decision is what a policy says of a request.
type decision struct {
	level           auditv1.Level
	omitted         []auditv1.Stage
	withoutManagers bool // managed fields are left out
}

// policy decides by the first rule that is about a request.
type policy struct{ auditv1.Policy }

// readPolicy reads a Policy of audit.k8s.io/v1 from a file and checks it. A field that there is not is reported to warn, as
// kube-apiserver warns of it.
func readPolicy(path string, warn func(error)) (*policy, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the audit policy: %w", err)
	}
	p, err := parsePolicy(data, warn)
	if err != nil {
		return nil, fmt.Errorf("audit policy %s: %w", path, err)
	}
	return p, nil
}

func parsePolicy(data []byte, warn func(error)) (*policy, error) {
	p := &policy{}
	if err := yaml.UnmarshalStrict(data, &p.Policy); err != nil {
		p = &policy{}
		if lax := yaml.Unmarshal(data, &p.Policy); lax != nil {
			return nil, lax
		}
		warn(err)
	}
	if p.APIVersion != auditv1.SchemeGroupVersion.String() || p.Kind != "Policy" {
		return nil, fmt.Errorf("it is %s of %s and must be Policy of %s", cmp.Or(p.Kind, "nothing"), cmp.Or(p.APIVersion, "nothing"), auditv1.SchemeGroupVersion)
	}
	if err := validatePolicy(&p.Policy).ToAggregate(); err != nil {
		return nil, err
	}
	if len(p.Rules) == 0 {
		return nil, fmt.Errorf("it has no rules")
	}
	return p, nil
}

func validatePolicy(p *auditv1.Policy) field.ErrorList {
	errs := validateStages(p.OmitStages, field.NewPath("omitStages"))
	for i, rule := range p.Rules {
		errs = append(errs, validateRule(rule, field.NewPath("rules").Index(i))...)
	}
	return errs
}

func validateRule(r auditv1.PolicyRule, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case r.Level == "":
		errs = append(errs, field.Required(at.Child("level"), ""))
	case !slices.Contains(levels, r.Level):
		errs = append(errs, field.NotSupported(at.Child("level"), r.Level, levels))
	}
	for i, url := range r.NonResourceURLs {
		errs = append(errs, validateURL(url, at.Child("nonResourceURLs").Index(i))...)
	}
	for i, named := range r.Resources {
		errs = append(errs, validateResources(named, at.Child("resources").Index(i))...)
	}
	errs = append(errs, validateStages(r.OmitStages, at.Child("omitStages"))...)
	if len(r.NonResourceURLs) > 0 && len(r.Resources)+len(r.Namespaces) > 0 {
		errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
	}
	return errs
}

func validateURL(url string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if url != "*" && !strings.HasPrefix(url, "/") {
		errs = append(errs, field.Invalid(at, url, "non-resource URL rules must begin with a '/' character"))
	}
	if star := strings.Index(url, "*"); star >= 0 && star < len(url)-1 {
		errs = append(errs, field.Invalid(at, url, "non-resource URL wildcards '*' must be the final character of the rule"))
	}
	return errs
}

func validateResources(r auditv1.GroupResources, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Group != "" && r.Group != "*" {
		for _, problem := range validation.NameIsDNSSubdomain(r.Group, false) {
			errs = append(errs, field.Invalid(at.Child("group"), r.Group, problem))
		}
	}
	if len(r.ResourceNames) > 0 && len(r.Resources) == 0 {
		errs = append(errs, field.Invalid(at.Child("resourceNames"), r.ResourceNames, "using resourceNames requires at least one resource"))
	}
	return errs
}

func validateStages(omitted []auditv1.Stage, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, stage := range omitted {
		if !slices.Contains(stages, stage) {
			errs = append(errs, field.NotSupported(at.Index(i), stage, stages))
		}
	}
	return errs
}

// decide says what to write down of a request. What no rule is about is not written down.
func (p *policy) decide(a authorizer.Attributes) decision {
	for i := range p.Rules {
		if r := &p.Rules[i]; about(r, a) {
			d := decision{level: r.Level, omitted: slices.Concat(p.OmitStages, r.OmitStages), withoutManagers: p.OmitManagedFields}
			if r.OmitManagedFields != nil {
				d.withoutManagers = *r.OmitManagedFields
			}
			return d
		}
	}
	return decision{level: auditv1.LevelNone}
}

// about reports whether a rule is about a request. A list that is empty leaves the choice to the others.
func about(r *auditv1.PolicyRule, a authorizer.Attributes) bool {
	u := a.GetUser()
	switch {
	case len(r.Users) > 0 && (u == nil || !slices.Contains(r.Users, u.GetName())),
		len(r.UserGroups) > 0 && (u == nil || !slices.ContainsFunc(u.GetGroups(), func(g string) bool { return slices.Contains(r.UserGroups, g) })),
		len(r.Verbs) > 0 && !slices.Contains(r.Verbs, a.GetVerb()):
		return false
	case len(r.Namespaces)+len(r.Resources) > 0:
		return a.IsResourceRequest() && (len(r.Namespaces) == 0 || slices.Contains(r.Namespaces, a.GetNamespace())) &&
			(len(r.Resources) == 0 || slices.ContainsFunc(r.Resources, func(g auditv1.GroupResources) bool { return names(g, a) }))
	case len(r.NonResourceURLs) > 0:
		return !a.IsResourceRequest() && slices.ContainsFunc(r.NonResourceURLs, func(url string) bool { return leadsTo(url, a.GetPath()) })
	}
	return true
}

// names reports whether resources of a rule are what a request is about. A subresource is named by itself.
func names(g auditv1.GroupResources, a authorizer.Attributes) bool {
	if g.Group != "*" && g.Group != a.GetAPIGroup() {
		return false
	}
	if len(g.Resources) == 0 {
		return true
	}
	if len(g.ResourceNames) > 0 && !slices.Contains(g.ResourceNames, a.GetName()) {
		return false
	}
	whole, sub := a.GetResource(), a.GetSubresource()
	if sub != "" {
		whole += "/" + sub
	}
	return slices.ContainsFunc(g.Resources, func(named string) bool {
		return named == "*" || named == whole || named == a.GetResource()+"/*" || sub != "" && named == "*/"+sub
	})
}

// leadsTo reports whether a path is meant by the URL of a rule, which may end with a star.
func leadsTo(url, path string) bool {
	prefix, open := strings.CutSuffix(url, "*")
	return url == path || open && strings.HasPrefix(path, prefix)
}
