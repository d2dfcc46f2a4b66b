package podspec

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	mirrorPod    = v1.MirrorPodAnnotationKey
	appArmor     = v1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix
	tolerations  = v1.TolerationsAnnotationKey
	deletionCost = v1.PodDeletionCost
)

// ValidatePodAnnotations checks the annotations that mean something to the API.
func ValidatePodAnnotations(annotations map[string]string, s *v1.PodSpec, path *field.Path, opts Options) field.ErrorList {
	v := &validator{opts: opts, spec: s}
	if value, ok := annotations[mirrorPod]; ok && s.NodeName == "" {
		v.invalid(path.Key(mirrorPod), value, "must set spec.nodeName if mirror pod annotation is set")
	}
	if text := annotations[tolerations]; text != "" {
		var list []v1.Toleration
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			v.invalid(path, tolerations, err.Error())
		} else {
			v.checkTolerations(list, path.Child(tolerations))
		}
	}
	if cost, ok := annotations[deletionCost]; ok && !opts.BadDeletionCost && !isCost(cost) {
		v.invalid(path.Key(deletionCost), cost, "must be a 32bit integer")
	}
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		value := annotations[key]
		switch {
		case key == v1.SeccompPodAnnotationKey || strings.HasPrefix(key, v1.SeccompContainerAnnotationKeyPrefix):
			v.checkSeccompText(value, path.Child(key))
		case strings.HasPrefix(key, appArmor):
			v.checkAppArmorText(strings.TrimPrefix(key, appArmor), value, path.Key(key))
		}
	}
	return v.errs
}

// isCost reports whether a text is a deletion cost: a number of 32 bits without
// a plus sign or leading zeros.
func isCost(text string) bool {
	_, err := strconv.ParseInt(text, 10, 32)
	return err == nil && (text == "0" || text[0] != '0' && text[0] != '+')
}

// checkSeccompText checks a profile as annotations name it.
func (v *validator) checkSeccompText(profile string, path *field.Path) {
	switch {
	case profile == v1.SeccompProfileRuntimeDefault, profile == v1.DeprecatedSeccompProfileDockerDefault, profile == v1.SeccompProfileNameUnconfined:
	case strings.HasPrefix(profile, v1.SeccompLocalhostProfileNamePrefix):
		v.descending(strings.TrimPrefix(profile, v1.SeccompLocalhostProfileNamePrefix), path)
	default:
		v.invalid(path, profile, "must be a valid seccomp profile")
	}
}

func (v *validator) checkAppArmorText(container, profile string, path *field.Path) {
	found := false
	EachContainer(v.spec, nil, func(c *v1.Container, _ *field.Path) { found = found || c.Name == container })
	if !found {
		v.invalid(path, container, "container not found")
	}
	switch {
	case profile == "", profile == v1.DeprecatedAppArmorBetaProfileRuntimeDefault, profile == v1.DeprecatedAppArmorBetaProfileNameUnconfined:
	case strings.HasPrefix(profile, v1.DeprecatedAppArmorBetaProfileNamePrefix):
	default:
		v.invalid(path, profile, fmt.Sprintf("invalid AppArmor profile name: %q", profile))
	}
}

// profileText is how annotations name a profile: its type, and for local ones
// the prefix of the text and the name after it.
type profileText struct {
	unconfined, localPrefix string
	defaults                []string
}

var (
	seccompText = profileText{v1.SeccompProfileNameUnconfined, v1.SeccompLocalhostProfileNamePrefix,
		[]string{v1.SeccompProfileRuntimeDefault, v1.DeprecatedSeccompProfileDockerDefault}}
	appArmorText = profileText{v1.DeprecatedAppArmorBetaProfileNameUnconfined, v1.DeprecatedAppArmorBetaProfileNamePrefix,
		[]string{v1.DeprecatedAppArmorBetaProfileRuntimeDefault}}
)

// match demands that an annotation says the same as a field.
func (p profileText) match(what, annotation, kind string, local *string, path *field.Path) *field.Error {
	same := true
	switch kind {
	case "Unconfined":
		same = annotation == p.unconfined
	case "RuntimeDefault":
		same = slices.Contains(p.defaults, annotation)
	case "Localhost":
		name, ok := strings.CutPrefix(annotation, p.localPrefix)
		if ok && (local == nil || name != *local) {
			return field.Forbidden(path.Child("localhostProfile"), what+" profile in annotation and field must match")
		}
		same = ok
	}
	if same {
		return nil
	}
	return field.Forbidden(path.Child("type"), what+" type in annotation and field must match")
}

func seccompMatch(annotations map[string]string, s *v1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	check := func(key string, p *v1.SeccompProfile, at *field.Path) {
		annotation, ok := annotations[key]
		if !ok || p == nil {
			return
		}
		if err := seccompText.match("seccomp", annotation, string(p.Type), p.LocalhostProfile, at.Child("securityContext", "seccompProfile")); err != nil {
			errs = append(errs, err)
		}
	}
	if s.SecurityContext != nil {
		check(v1.SeccompPodAnnotationKey, s.SecurityContext.SeccompProfile, path)
	}
	EachContainer(s, path, func(c *v1.Container, at *field.Path) {
		if c.SecurityContext != nil {
			check(v1.SeccompContainerAnnotationKeyPrefix+c.Name, c.SecurityContext.SeccompProfile, at)
		}
	})
	return errs
}

// ProfilesMatch demands that annotations say the same about seccomp and AppArmor
// as the fields that replaced them.
func ProfilesMatch(annotations map[string]string, s *v1.PodSpec, path *field.Path) field.ErrorList {
	errs := seccompMatch(annotations, s, path)
	if s.OS != nil && s.OS.Name == v1.Windows {
		return errs
	}
	EachContainer(s, path, func(c *v1.Container, at *field.Path) {
		var p *v1.AppArmorProfile
		if s.SecurityContext != nil {
			p = s.SecurityContext.AppArmorProfile
		}
		if c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
			p = c.SecurityContext.AppArmorProfile
		}
		annotation, ok := annotations[appArmor+c.Name]
		if p == nil || !ok {
			return
		}
		if err := appArmorText.match("apparmor", annotation, string(p.Type), p.LocalhostProfile, at.Child("securityContext", "appArmorProfile")); err != nil {
			errs = append(errs, err)
		}
	})
	return errs
}
