package core

import (
	"bytes"
	"encoding/json"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func secrets() *resource.Resource {
	return resource.Define[corev1.SecretList](resource.Definition[corev1.Secret]{
		Version: "v1", Kind: "Secret", Plural: "secrets",
		Default: func(s *corev1.Secret) {
			if s.Type == "" {
				s.Type = corev1.SecretTypeOpaque
			}
			takeStringData(s)
		},
		Prepare:  prepareSecret,
		Validate: validateSecret,
		Fields: map[string]func(*corev1.Secret) string{
			"type": func(s *corev1.Secret) string { return string(s.Type) },
		},
		Columns: []resource.Column[*corev1.Secret]{
			resource.NameColumn[*corev1.Secret](),
			table.Text("Type", table.Doc(corev1.Secret{}, "type"), func(s *corev1.Secret) string { return string(s.Type) }),
			table.Count("Data", table.Doc(corev1.Secret{}, "data"), func(s *corev1.Secret) int64 { return int64(len(s.Data)) }),
			resource.AgeColumn[*corev1.Secret](),
		},
	})
}

// takeStringData moves stringData, which is write-only, into data.
func takeStringData(s *corev1.Secret) {
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = make(map[string][]byte)
	}
	for key, value := range s.StringData {
		s.Data[key] = []byte(value)
	}
	s.StringData = nil
}

// prepareSecret keeps the type on an update that leaves it out.
func prepareSecret(s, old *corev1.Secret) {
	takeStringData(s)
	if old != nil && s.Type == "" {
		s.Type = old.Type
	}
}

func validateSecret(s, old *corev1.Secret) field.ErrorList {
	var errs field.ErrorList
	data := field.NewPath("data")
	size := 0
	for key, value := range s.Data {
		errs = append(errs, validateDataKey(key, data.Key(key))...)
		size += len(value)
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(data, "", corev1.MaxSecretSize))
	}
	errs = append(errs, validateSecretType(s)...)
	if old == nil {
		return errs
	}
	errs = append(errs, validation.ValidateImmutableField(s.Type, old.Type, field.NewPath("type"))...)
	if old.Immutable == nil || !*old.Immutable {
		return errs
	}
	if s.Immutable == nil || !*s.Immutable {
		errs = append(errs, field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set"))
	}
	if !maps.EqualFunc(s.Data, old.Data, bytes.Equal) {
		errs = append(errs, field.Forbidden(data, "field is immutable when `immutable` is set"))
	}
	return errs
}

// validateSecretType checks what each well-known type promises to its readers.
func validateSecretType(s *corev1.Secret) field.ErrorList {
	data := field.NewPath("data")
	required := func(keys ...string) (errs field.ErrorList) {
		for _, key := range keys {
			if _, ok := s.Data[key]; !ok {
				errs = append(errs, field.Required(data.Key(key), ""))
			}
		}
		return errs
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			return field.ErrorList{field.Required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), "")}
		}
	case corev1.SecretTypeDockercfg:
		return validateJSONValue(s, corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		return validateJSONValue(s, corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth:
		_, name := s.Data[corev1.BasicAuthUsernameKey]
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if !name && !password {
			return required(corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			return field.ErrorList{field.Required(data.Key(corev1.SSHAuthPrivateKey), "")}
		}
	case corev1.SecretTypeTLS:
		return required(corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	return nil
}

func validateJSONValue(s *corev1.Secret, key string) field.ErrorList {
	path := field.NewPath("data").Key(key)
	value, ok := s.Data[key]
	if !ok {
		return field.ErrorList{field.Required(path, "")}
	}
	var document map[string]any
	if err := json.Unmarshal(value, &document); err != nil {
		return field.ErrorList{field.Invalid(path, "<secret contents redacted>", err.Error())}
	}
	return nil
}
