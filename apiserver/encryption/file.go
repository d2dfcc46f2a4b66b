package encryption

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// File is an EncryptionConfiguration of apiserver.config.k8s.io/v1.
type File struct {
	metav1.TypeMeta
	Resources []Rule `json:"resources"`
}

// Rule says which providers resources have. A resource is "plural" or
// "plural.group"; "*.group" are all of a group, "*." all of the core group,
// "*.*" all.
type Rule struct {
	Resources []string   `json:"resources"`
	Providers []Provider `json:"providers"`
}

// Provider is one of its fields.
type Provider struct {
	AESGCM    *Keys     `json:"aesgcm,omitempty"`
	AESCBC    *Keys     `json:"aescbc,omitempty"`
	Secretbox *Keys     `json:"secretbox,omitempty"`
	Identity  *Identity `json:"identity,omitempty"`
	KMS       *KMS      `json:"kms,omitempty"`
}

// Keys are those of a provider; the first writes.
type Keys struct {
	Keys []Key `json:"keys"`
}

// Key is a key with the name that values tell it by. Its secret is in base64.
type Key struct {
	Name   string `json:"name"`
	Secret string `json:"secret"`
}

// Identity stores objects as they are.
type Identity struct{}

// KMS is a plugin that keeps a key.
type KMS struct {
	APIVersion string `json:"apiVersion"`
	Name       string `json:"name"`
	// CacheSize is of version 1 alone, which is refused.
	CacheSize *int32           `json:"cachesize,omitempty"`
	Endpoint  string           `json:"endpoint"`
	Timeout   *metav1.Duration `json:"timeout,omitempty"`
}

// DeepCopyObject makes File an object that the decoder of apimachinery can make.
// It is never copied.
func (f *File) DeepCopyObject() runtime.Object {
	shallow := *f
	return &shallow
}

const groupName = "apiserver.config.k8s.io"

// decoder decodes files strictly. Kubernetes has an older name too.
func decoder() runtime.Decoder {
	scheme := runtime.NewScheme()
	scheme.AddKnownTypeWithName(schema.GroupVersionKind{Group: groupName, Version: "v1", Kind: "EncryptionConfiguration"}, &File{})
	scheme.AddKnownTypeWithName(schema.GroupVersionKind{Version: "v1", Kind: "EncryptionConfig"}, &File{})
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}

// load reads the file at path and validates it. The hash tells its versions
// apart without holding their keys.
func load(path string, reload bool) (*File, string, error) {
	data, hash, err := read(path)
	if err != nil {
		return nil, "", fmt.Errorf("error while loading file: %w", err)
	}
	file, err := parse(data, path)
	if err != nil {
		return nil, "", err
	}
	return file, hash, file.validate(reload).ToAggregate()
}

func read(path string) (data []byte, hash string, err error) {
	data, err = os.ReadFile(path)
	if err != nil {
		return nil, "", fmt.Errorf("error reading encryption provider configuration file %q: %w", path, err)
	}
	if len(data) == 0 {
		return nil, "", fmt.Errorf("encryption provider configuration file %q is empty", path)
	}
	return data, fmt.Sprintf("sha256:%x", sha256.Sum256(data)), nil
}

// parse decodes a file and fills its defaults in. path is for messages.
func parse(data []byte, path string) (*File, error) {
	obj, kind, err := decoder().Decode(data, nil, nil)
	// The text of these errors is the whole file, with its keys.
	switch {
	case runtime.IsMissingKind(err):
		err = errors.New("Object 'Kind' is missing")
	case runtime.IsMissingVersion(err):
		err = errors.New("Object 'apiVersion' is missing")
	}
	if err != nil {
		return nil, fmt.Errorf("error decoding encryption provider configuration file %q: %w", path, err)
	}
	file, ok := obj.(*File)
	if !ok {
		return nil, fmt.Errorf("got unexpected config type: %v", kind)
	}
	for _, rule := range file.Resources {
		for _, provider := range rule.Providers {
			if provider.KMS != nil {
				provider.KMS.fill()
			}
		}
	}
	return file, nil
}

func (k *KMS) fill() {
	if k.Timeout == nil {
		k.Timeout = &metav1.Duration{Duration: 3 * time.Second}
	}
	if k.APIVersion == "" {
		k.APIVersion = "v1"
	}
	if k.APIVersion == "v1" && k.CacheSize == nil {
		k.CacheSize = new(int32(1000))
	}
}
