// The AWS SDK for Go, looking for credentials or for the region as an application does.
package main

import (
	"context"
	"encoding/json"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

type lookUp struct {
	Found        *string `json:"found"`
	Error        *string `json:"error"`
	Milliseconds float64 `json:"milliseconds"`
}

func main() {
	look := map[string]func(context.Context) (string, error){"credentials": credentials, "region": region}[os.Args[1]]
	started := time.Now()
	found, err := look(context.Background())
	result := lookUp{Milliseconds: time.Since(started).Seconds() * 1000}
	if err == nil {
		result.Found = &found
	} else {
		text := err.Error()
		result.Error = &text
	}
	json.NewEncoder(os.Stdout).Encode(result)
}

func credentials(ctx context.Context) (string, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return "", err
	}
	found, err := cfg.Credentials.Retrieve(ctx)
	return found.AccessKeyID, err
}

func region(ctx context.Context) (string, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return "", err
	}
	found, err := imds.NewFromConfig(cfg).GetRegion(ctx, nil)
	if err != nil {
		return "", err
	}
	return found.Region, nil
}
