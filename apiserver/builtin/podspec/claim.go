package podspec

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateClaimSpec lists what is wrong with a new persistent volume claim spec.
func ValidateClaimSpec(s *v1.PersistentVolumeClaimSpec, path *field.Path) field.ErrorList {
	return nil
}

// WarnClaimSpec lists what is doubtful about a claim spec at path.
func WarnClaimSpec(s *v1.PersistentVolumeClaimSpec, path *field.Path) []string { return nil }
