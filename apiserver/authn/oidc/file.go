package oidc

import (
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
)

// mostFile is how large the file may be.
const mostFile = 4 << 20

// decoder decodes files strictly. All versions have the same fields.
func decoder() runtime.Decoder {
	scheme := runtime.NewScheme()
	for _, version := range []string{"v1", "v1beta1", "v1alpha1"} {
		scheme.AddKnownTypeWithName(schema.GroupVersionKind{Group: apiserverv1.GroupName, Version: version, Kind: "AuthenticationConfiguration"},
			&apiserverv1.AuthenticationConfiguration{})
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}

// read returns the content of a file.
func read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, mostFile+1))
	if err == nil && len(data) > mostFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, mostFile)
	}
	return data, err
}

// decode reads an AuthenticationConfiguration.
func decode(data []byte) (*apiserverv1.AuthenticationConfiguration, error) {
	if len(data) == 0 {
		return nil, errors.New("empty config data")
	}
	c := new(apiserverv1.AuthenticationConfiguration)
	if _, _, err := decoder().Decode(data, nil, c); err != nil {
		return nil, err
	}
	return c, nil
}
