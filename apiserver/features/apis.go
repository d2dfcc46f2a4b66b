package features

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/component-base/cli/flag"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Keys for all versions, and for those of a stage.
const (
	apiAll   = "api/all"
	apiGA    = "api/ga"
	apiBeta  = "api/beta"
	apiAlpha = "api/alpha"
)

// apis is what is said of the APIs, taken apart.
type apis struct {
	stable    bool // versions of which nothing is said
	versions  map[schema.GroupVersion]bool
	resources map[schema.GroupVersionResource]bool
}

// Hides makes the function that says which of the built-in rows no request is to find.
func (c Config) Hides(rows []*resource.Resource) (func(*resource.Resource) bool, error) {
	a, err := parse(c.apis, served(rows))
	if err != nil {
		return nil, err
	}
	return a.hide, nil
}

func (a apis) hide(r *resource.Resource) bool {
	if on, said := a.resources[r.GVR()]; said {
		return !on
	}
	if on, said := a.versions[r.GroupVersion()]; said {
		return !on
	}
	// What yields to another server is no API of kube-apiserver's, of which the other keys speak.
	return !r.Yields && !a.stable
}

// served are the group versions of rows.
func served(rows []*resource.Resource) map[schema.GroupVersion]bool {
	gvs := make(map[schema.GroupVersion]bool)
	for _, r := range rows {
		gvs[r.GroupVersion()] = true
	}
	return gvs
}

func parse(flags flag.ConfigurationMap, ours map[schema.GroupVersion]bool) (apis, error) {
	flags = withCore(flags)
	a := apis{versions: make(map[schema.GroupVersion]bool), resources: make(map[schema.GroupVersionResource]bool)}
	if err := check(flags, ours); err != nil {
		return a, err
	}
	var err error
	if a.stable, err = stages(flags); err != nil {
		return a, err
	}
	for key, value := range flags {
		gv, plural, ok := split(key)
		if !ok {
			continue // a stage
		}
		if err := registered(gv, ours); err != nil {
			return a, err
		}
		on, err := strconv.ParseBool(cmp.Or(value, "true"))
		if err != nil {
			return a, fmt.Errorf("invalid value of %s: %s, err: %v", key, value, err)
		}
		if strings.ToLower(plural) != plural {
			return a, fmt.Errorf("invalid key %s: group/version/resource and resource is always lowercase plural, not %q", key, plural)
		}
		switch {
		case on && !ours[gv]:
			return a, fmt.Errorf("%s is not served by Skiff", gv)
		case plural != "":
			a.resources[gv.WithResource(plural)] = on
		default:
			a.versions[gv] = on
		}
	}
	return a, nil
}

// withCore has the core group's keys in one form. As with kube-apiserver, one for a resource of it is for all of it.
func withCore(flags flag.ConfigurationMap) flag.ConfigurationMap {
	all := make(flag.ConfigurationMap)
	for key, value := range flags {
		switch core := strings.TrimPrefix(key, "api/"); {
		case core == "v1" || strings.HasPrefix(core, "v1/"):
			all["/v1"] = value
		case key != "api/legacy":
			all[key] = value
		}
	}
	return all
}

// check finds what is wrong with the keys before anything is done.
func check(flags flag.ConfigurationMap, ours map[schema.GroupVersion]bool) error {
	var errs []error
	for _, key := range []string{"flowcontrol.apiserver.k8s.io/v1", apiGA, apiAll} {
		if flags[key] == "false" {
			errs = append(errs, fmt.Errorf("--runtime-config=%s=false conflicts with --enable-priority-and-fairness=true", key))
		}
		if value := flags[key]; value == "false" || value == "true" {
			break
		}
	}
	if flags[apiAll] == "false" && len(flags) == 1 {
		return utilerrors.NewAggregate(append(errs, errors.New("invalid runtime-config with only api/all=false")))
	}
	var unknown []string
	for key := range flags {
		if isStage(key) {
			continue
		}
		gv, _, ok := split(key)
		if !ok {
			return utilerrors.NewAggregate(append(errs, fmt.Errorf("runtime-config invalid key %s", key)))
		}
		if !knows(gv.Group, ours) {
			unknown = append(unknown, gv.String())
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		errs = append(errs, fmt.Errorf("unknown api groups %s", strings.Join(slices.Compact(unknown), ",")))
	}
	return utilerrors.NewAggregate(errs)
}

func isStage(key string) bool {
	return slices.Contains([]string{apiAll, apiGA, apiBeta, apiAlpha}, key)
}

// split takes a key for a version or a resource apart.
func split(key string) (gv schema.GroupVersion, plural string, ok bool) {
	parts := strings.Split(key, "/")
	if isStage(key) || len(parts) < 2 || len(parts) > 3 {
		return gv, "", false
	}
	if len(parts) == 3 {
		plural = parts[2]
	}
	return schema.GroupVersion{Group: parts[0], Version: parts[1]}, plural, true
}

// stages says whether stable versions are on. The others cannot be put on, since there are none.
func stages(flags flag.ConfigurationMap) (stable bool, err error) {
	on := map[string]bool{apiGA: true}
	for _, key := range []string{apiAll, apiGA, apiBeta, apiAlpha} {
		value, said := flags[key]
		if !said {
			continue
		}
		if value != "true" && value != "false" {
			return false, fmt.Errorf("invalid value %s=%s", key, value)
		}
		if on[key] = value == "true"; key == apiAll {
			on[apiGA], on[apiBeta], on[apiAlpha] = on[key], on[key], on[key]
		}
	}
	if on[apiBeta] || on[apiAlpha] {
		return false, errors.New("beta and alpha versions of APIs are not served by Skiff: api/beta and api/alpha cannot be true, nor api/all without them")
	}
	return on[apiGA], nil
}

// elsewhere are the versions of groups whose types are in modules of their own.
var elsewhere = map[string][]string{"apiextensions.k8s.io": {"v1", "v1beta1"}, "apiregistration.k8s.io": {"v1", "v1beta1"}}

// knows reports whether Kubernetes or Skiff has an API group.
func knows(group string, ours map[schema.GroupVersion]bool) bool {
	if scheme.Scheme.IsGroupRegistered(group) || elsewhere[group] != nil {
		return true
	}
	for gv := range ours {
		if gv.Group == group {
			return true
		}
	}
	return false
}

// registered is an error about a version that Kubernetes has never had.
func registered(gv schema.GroupVersion, ours map[schema.GroupVersion]bool) error {
	if ours[gv] || scheme.Scheme.IsVersionRegistered(gv) || slices.Contains(elsewhere[gv.Group], gv.Version) {
		return nil
	}
	return fmt.Errorf("group version %s that has not been registered", gv)
}
