package encryption

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The lengths of keys, in bytes.
var (
	aesLengths       = []int{16, 24, 32}
	secretboxLengths = []int{32}
)

// validate says what is wrong with f in the words of Kubernetes, by which people
// find help. reload: the file may be replaced by another later.
func (f *File) validate(reload bool) (problems field.ErrorList) {
	root := field.NewPath("resources")
	if len(f.Resources) == 0 {
		return field.ErrorList{atLeastOne(root, root.String())}
	}
	plugins := sets.New[string]()
	for i, rule := range f.Resources {
		path := root.Index(i)
		problems = append(problems, validateResources(rule.Resources, path.Child("resources"))...)
		providers := path.Child("providers")
		if len(rule.Providers) == 0 {
			problems = append(problems, atLeastOne(providers, providers.String()))
		}
		for j, p := range rule.Providers {
			problems = append(problems, p.validate(providers.Index(j), plugins, reload)...)
		}
	}
	return problems
}

func atLeastOne(path *field.Path, what string) *field.Error {
	return field.Required(path, fmt.Sprintf("at least one %s is required", what))
}

func validateResources(names []string, path *field.Path) (problems field.ErrorList) {
	if len(names) == 0 {
		problems = append(problems, atLeastOne(path, path.String()))
	}
	again, overlap := clashes(names)
	if again {
		problems = append(problems, field.Invalid(path, names, "the same resource cannot be specified multiple times"))
	}
	if overlap {
		problems = append(problems, field.Invalid(path, names,
			"using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked"))
	}
	for i, name := range names {
		if problem := misnamed(name); problem != "" {
			problems = append(problems, field.Invalid(path.Index(i), name, problem))
		}
	}
	return problems
}

// clashes reports whether a list names a resource again, and whether one of its
// wildcards stands for another.
func clashes(names []string) (again, overlap bool) {
	for i, a := range names {
		for j, b := range names {
			one, other := schema.ParseGroupResource(a), schema.ParseGroupResource(b)
			switch {
			case i == j:
			case one == other:
				// Of two that are the same, kube-apiserver takes the second pair for an
				// overlap if they are wildcards.
				overlap = overlap || again && one.Resource == "*"
				again = true
			case one == everything, one.Group == other.Group && (one.Resource == "*" || other.Resource == "*"):
				overlap = true
			}
		}
	}
	return again, overlap
}

// misnamed says what is wrong with the name of a resource.
func misnamed(name string) string {
	r := schema.ParseGroupResource(name)
	switch {
	case strings.ToLower(name) != name:
		return "resource name should not contain capital letters"
	case name == "*":
		return "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"
	case slices.Contains([]string{"apiserveripinfo", "serviceipallocations", "servicenodeportallocations"}, name):
		return "resources which do not have REST API/s cannot be encrypted"
	case r.Group == "events.k8s.io":
		return "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file"
	case r.Group == "extensions":
		return "'extensions' group has been removed and cannot be used for encryption"
	case r.Group == "*" && r.Resource != "*":
		return "encrypting the same resource across groups is not supported"
	}
	return ""
}

// validate says what is wrong with a provider. plugins are the names of those
// before it; its own is added.
func (p *Provider) validate(path *field.Path, plugins sets.Set[string], reload bool) (problems field.ErrorList) {
	switch n := p.count(); {
	case n == 0:
		problems = append(problems, field.Invalid(path, p.shown(), "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity"))
	case n > 1:
		problems = append(problems, field.Invalid(path, p.shown(), "more than one provider specified in a single element, should split into different list elements"))
	}
	switch {
	case p.KMS != nil:
		problems = append(problems, p.KMS.validate(path.Child("kms"), plugins, reload)...)
		plugins.Insert(p.KMS.Name)
	case p.AESGCM != nil:
		problems = append(problems, p.AESGCM.validate(path.Child("aesgcm", "keys"), aesLengths)...)
	case p.AESCBC != nil:
		problems = append(problems, p.AESCBC.validate(path.Child("aescbc", "keys"), aesLengths)...)
	case p.Secretbox != nil:
		problems = append(problems, p.Secretbox.validate(path.Child("secretbox", "keys"), secretboxLengths)...)
	}
	return problems
}

func (p *Provider) count() (n int) {
	for _, set := range []bool{p.AESGCM != nil, p.AESCBC != nil, p.Secretbox != nil, p.Identity != nil, p.KMS != nil} {
		if set {
			n++
		}
	}
	return n
}

// shown is p as messages show it: which fields it has, but none of its secrets,
// which kube-apiserver shows.
func (p *Provider) shown() any {
	mark := func(set bool) *string {
		if !set {
			return nil
		}
		return new("REDACTED")
	}
	return struct{ AESGCM, AESCBC, Secretbox, Identity, KMS *string }{
		mark(p.AESGCM != nil), mark(p.AESCBC != nil), mark(p.Secretbox != nil), mark(p.Identity != nil), mark(p.KMS != nil),
	}
}

func (k *Keys) validate(path *field.Path, lengths []int) (problems field.ErrorList) {
	if len(k.Keys) == 0 {
		return field.ErrorList{atLeastOne(path, "keys")}
	}
	for i, key := range k.Keys {
		problems = append(problems, key.validate(path.Index(i), lengths)...)
	}
	return problems
}

func (k Key) validate(path *field.Path, lengths []int) (problems field.ErrorList) {
	if k.Name == "" {
		problems = append(problems, field.Required(path.Child("name"), "name is a mandatory field for a key"))
	}
	path = path.Child("secret")
	if k.Secret == "" {
		return append(problems, field.Required(path, "secret is a mandatory field for a key"))
	}
	secret, err := base64.StdEncoding.DecodeString(k.Secret)
	switch {
	case err != nil:
		problems = append(problems, field.Invalid(path, "REDACTED", "secrets must be base64 encoded"))
	case !slices.Contains(lengths, len(secret)):
		problems = append(problems, field.Invalid(path, "REDACTED",
			fmt.Sprintf("secret is not of the expected length, got %d, expected one of %v", len(secret), lengths)))
	}
	return problems
}

func (k *KMS) validate(path *field.Path, names sets.Set[string], reload bool) (problems field.ErrorList) {
	add := func(at string, value any, text string, args ...any) {
		problems = append(problems, field.Invalid(path.Child(at), value, fmt.Sprintf(text, args...)))
	}
	old := k.APIVersion == "v1"
	if k.Name == "" {
		problems = append(problems, field.Required(path.Child("name"), "name is a mandatory field for a provider"))
	}
	if !old && strings.Contains(k.Name, ":") {
		add("name", k.Name, "invalid KMS provider name %s, must not contain ':'", k.Name)
	}
	if (reload || !old) && names.Has(k.Name) {
		add("name", k.Name, "duplicate KMS provider name %s, names must be unique", k.Name)
	}
	if k.Timeout.Duration <= 0 {
		add("timeout", k.Timeout, "timeout should be a positive value")
	}
	if u, err := url.Parse(k.Endpoint); k.Endpoint == "" {
		add("endpoint", "", "endpoint is a mandatory field for a kms")
	} else if err != nil {
		add("endpoint", k.Endpoint, "invalid endpoint for kms provider, error: %v", err)
	} else if u.Scheme != "unix" {
		add("endpoint", k.Endpoint, "unsupported scheme %q for KMS provider, only unix is supported", u.Scheme)
	}
	if !old && k.CacheSize != nil {
		add("cachesize", *k.CacheSize, "cachesize is not supported in v2")
	}
	if old && *k.CacheSize == 0 {
		add("cachesize", *k.CacheSize, "cachesize should be a positive value, or negative to disable")
	}
	if !old && k.APIVersion != "v2" {
		// kube-apiserver names the field where it means its value.
		add("apiVersion", k.APIVersion, "unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported")
	}
	return problems
}
